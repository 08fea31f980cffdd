"""Whether this process lives, and whether what stands behind it can serve."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.domain.chat import Json
from app.http.documented import refusals
from app.http.errors import error_body
from app.http.projects import desk_of
from app.http.schemas import HealthOut, ReadyOut, UnreadyOut

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is this process alive", response_model=HealthOut, responses=refusals())
async def healthz(request: Request) -> Response:
    """Answer as long as the process can; asks nobody."""
    return JSONResponse({"status": "ok", "version": request.app.version})


@router.get(
    "/readyz",
    summary="Can it serve",
    response_model=ReadyOut,
    responses={**refusals(), 503: {"model": UnreadyOut, "description": "A part is not ready; `parts` says which."}},
)
async def readyz(request: Request) -> Response:
    """Ask every part behind this process."""
    parts = dict(await desk_of(request).ready())
    wrong = {name: word for name, word in parts.items() if word.partition(";")[0] != "ok"}
    if not wrong:
        return JSONResponse({"status": "ready", "parts": parts})
    said = "; ".join(f"{name}: {word}" for name, word in wrong.items())
    body: dict[str, Json] = {
        **error_body(
            "unavailable_error",
            f"Not ready: {said}.",
            param=next(iter(wrong)),
            remedy="Wait a few seconds; if it stays so, the server's log says why.",
        ),
        "parts": {**parts},
    }
    return JSONResponse(body, status_code=503, headers={"retry-after": "2"})
