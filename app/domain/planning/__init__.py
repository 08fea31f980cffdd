"""From a request to a valid plan: reading the request, the schema, validation, fallback, estimate. Pure."""
