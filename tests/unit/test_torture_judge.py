"""What the torture's judge counts as lost."""

from __future__ import annotations

from tests.torture.judge import Sent, losses_before

RATE = 10
S = 1_000_000


def sent(seconds: int) -> list[Sent]:
    return [Sent(i * S // RATE, str(i)) for i in range(seconds * RATE)]


def test_what_was_sent_before_the_kill_and_is_not_stored_is_lost() -> None:
    (loss,) = losses_before(sent(10), set(range(40, 100)), [(5 * S, 5 * S)], RATE)
    assert (loss.seconds, loss.oldest_s) == (1.0, 1.0)


def test_down_time_is_no_loss_of_the_next_kill() -> None:
    pictures = sent(10)
    # The first kill begins at 2 s; its victim stores two more pictures and is gone at 2.2 s. The
    # next life records from 5 s and is killed at 8 s with half a second unwritten.
    missing = set(range(22, 50)) | set(range(75, 80))
    losses = losses_before(pictures, missing, [(2 * S, 2 * S + S // 5), (8 * S, 8 * S)], RATE)
    assert [loss.seconds for loss in losses] == [0.0, 0.5]
