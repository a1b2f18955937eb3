"""Who may ask: bearer tokens with scopes, and how often."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from jobs.errors import UserError
from service.problems import ProblemError
from service.settings import ApiSettings
from service.tokens import Scope, Token, TokenFile

BEARER = HTTPBearer(
    scheme_name="token",
    auto_error=False,
    description="from `cops token create`; scopes: read < submit < admin. Needed by any server but one on loopback.",
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
Need = Callable[[Request, Credentials], Awaitable[Scope]]


class Auth:
    """Checks tokens and counts requests.

    Tokens are asked for on any address but loopback, and there as well once the file of tokens exists. Without, all is
    allowed but what needs the scope admin.

    Raises:
        UserError: tokens are asked for, and there is none that can be used.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._rates = settings.rates
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._tokens: TokenFile | None = TokenFile(settings.token_file)
        if settings.loopback and not settings.token_file.exists():
            self._tokens = None
            return
        if not any(token.usable(time.time()) for token in self._tokens.tokens()):
            raise UserError(
                f"no token in '{settings.token_file}' can be used, and the API at {settings.api_host} asks for one: "
                "make one with `cops token create NAME`"
            )

    @property
    def needed(self) -> bool:
        """Whether a token is."""
        return self._tokens is not None

    def need(self, scope: Scope) -> Need:
        """A dependency of operations that need a scope: what the caller may do at most."""

        async def check(request: Request, credentials: Credentials) -> Scope:
            address = request.client.host if request.client else ""
            if self._tokens is None:
                if scope != "read":  # on loopback reading is free
                    self._count("submit", address)
                return "submit"  # other users of this machine are there, too: none of them runs code as us
            token = self._known(self._tokens, credentials, address)
            request.state.token = token.id
            if not token.allows(scope):
                raise ProblemError(
                    403,
                    f"this needs a token of scope {scope}; '{token.name}' has {token.scope}",
                    {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
                )
            self._count("read" if scope == "read" else "submit", token.id)
            return token.scope

        return check

    def _known(self, tokens: TokenFile, credentials: HTTPAuthorizationCredentials | None, address: str) -> Token:
        if credentials is None:
            raise ProblemError(
                401, "a token is needed: send 'Authorization: Bearer cops_...'", {"WWW-Authenticate": "Bearer"}
            )
        rate = self._rates["wrong token"]
        if not self._limiter.test(rate, "wrong token", address):
            self._refuse("wrong token", address)
        try:
            token = tokens.find(credentials.credentials)
        except UserError:
            raise ProblemError(503, "the server's file of tokens cannot be read", {"Retry-After": "5"}) from None
        if token is not None and token.usable(time.time()):
            return token
        self._limiter.hit(rate, "wrong token", address)
        what = "unknown" if token is None else "revoked" if token.revoked else "expired"
        raise ProblemError(401, f"the token is {what}", {"WWW-Authenticate": 'Bearer error="invalid_token"'})

    def _count(self, kind: str, caller: str) -> None:
        if not self._limiter.hit(self._rates[kind], kind, caller):
            self._refuse(kind, caller)

    def _refuse(self, kind: str, caller: str) -> None:
        rate = self._rates[kind]
        seconds = max(1, round(self._limiter.get_window_stats(rate, kind, caller).reset_time - time.time()))
        what = "wrong tokens" if kind == "wrong token" else "requests"
        raise ProblemError(429, f"more {what} than {rate}: try again in {seconds} s", {"Retry-After": str(seconds)})
