"""Routes for operators: accounts, live checks, reload."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.http.documented import refusals
from app.http.projects import desk_of
from app.http.schemas import AccountListOut, LiveCheckListOut, ReloadOut
from app.http.wire import plain

router = APIRouter(prefix="/v1", tags=["operations"])


@router.get("/accounts", summary="List accounts", response_model=AccountListOut, responses=refusals())
async def list_accounts(request: Request) -> Response:
    """Return one row per account and model: state, limits and their use, calls in flight, last error."""
    return JSONResponse({"data": [plain(row) for row in await desk_of(request).accounts()]})


@router.post(
    "/accounts/check", summary="Call every account once", response_model=LiveCheckListOut, responses=refusals()
)
async def check_accounts(request: Request) -> Response:
    """Make one tiny real call per account and say how it went. Costs a few tokens each."""
    return JSONResponse({"data": [plain(row) for row in await desk_of(request).check_live()]})


@router.post("/reload", summary="Read the configuration again", response_model=ReloadOut, responses=refusals(422))
async def reload(request: Request) -> Response:
    """Apply the configuration as it is now; a wrong one changes nothing and says why."""
    return JSONResponse(plain(await desk_of(request).reload()))
