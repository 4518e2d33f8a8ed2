"""What can go wrong with artifacts. Each says what stands now and what to do."""

from typing import Any

from interlock.errors import InterlockError
from interlock_schemas.orders import FailureCode

__all__ = ["ArtifactError", "NotSealed", "TransferFailed"]


class ArtifactError(InterlockError):
    """An artifact or a store cannot be used as asked."""


class NotSealed(ArtifactError):
    """Nothing was sealed: a name that is refused, a file that changes, no room."""


class TransferFailed(ArtifactError):
    """A transfer ended without a commit. `code` is what the receipt of it will say."""

    def __init__(self, code: FailureCode, message: str, **context: Any) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.context = context
