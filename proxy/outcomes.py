"""What becomes of an event for a session, and of one for several: pure bookkeeping for the channel layers."""

import asyncio

from proxy.exceptions import DeliveryError, NoAnswer, SessionNotFound

Outcome = asyncio.Future[None] | None
"""What became of an event: None is done; a future ends when it is, or with a DeliveryError."""


def decide(errors: list[DeliveryError]) -> DeliveryError:
    """The one error of an event that nobody is known to have taken: that one may have, else the first that says more
    than that there is no session."""
    unsure = [error for error in errors if isinstance(error, NoAnswer)]
    certain = [error for error in errors if not isinstance(error, SessionNotFound)]
    return next(iter(unsure or certain), SessionNotFound())


def settle(outcomes: list[Outcome], errors: list[DeliveryError]) -> Outcome:
    """What becomes of an event for several receivers: it is done as soon as one of them has taken it.

    Raises the one error that says most if none takes it.
    """
    if not outcomes:
        raise decide(errors)
    futures = [outcome for outcome in outcomes if outcome]
    if len(futures) < len(outcomes):
        return None
    if len(futures) == 1 and not errors:
        return futures[0]
    first: asyncio.Future[None] = futures[0].get_loop().create_future()
    failed = list(errors)

    def on_done(outcome: asyncio.Future[None]) -> None:
        error = None if outcome.cancelled() else outcome.exception()
        if isinstance(error, DeliveryError):
            failed.append(error)
        if first.done():
            return
        if error is None:
            first.set_result(None)
        elif len(failed) == len(futures) + len(errors):
            first.set_exception(decide(failed))
            first.exception()  # it is no mistake if nobody waits for it any more

    for future in futures:
        future.add_done_callback(on_done)
    return first
