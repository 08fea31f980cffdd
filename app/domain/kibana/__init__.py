"""Kibana's dashboards, searches and alert rules, made from declarations in our own words. Pure; nothing is sent."""
