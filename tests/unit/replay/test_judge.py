"""Lost, late and used: judged on values, as a report is made of them."""

from __future__ import annotations

import io
import json
import os

import pytest
from rich.console import Console

from services.replay import judge, processes, report, scrape
from services.replay.count import Count, Word, together
from services.replay.judge import Look
from services.replay.processes import Processes, parse_watch, service_of
from services.replay.report import Archive, Fate, Report, Sent, Service
from shared.clock import SimulatedClock
from shared.errors import LamppostError

S = 1_000_000


def test_what_is_recorded_is_not_lost() -> None:
    assert judge.loss([(0, 10 * S)], [(0, 4 * S), (4 * S, 10 * S)]) == ([], 0)


def test_what_was_sent_and_is_nowhere_is_lost() -> None:
    found = judge.loss([(0, 10 * S), (20 * S, 30 * S)], [(0, 8 * S), (21 * S, 30 * S)])
    assert found.lost == [(8 * S, 10 * S), (20 * S, 21 * S)] and found.edge_us == 0


def test_the_last_pictures_before_a_cut_are_an_edge() -> None:
    found = judge.loss([(0, 10 * S)], [(80_000, 10 * S - 120_000)])
    assert found.lost == [] and found.edge_us == 200_000


def test_what_was_never_sent_is_not_lost() -> None:
    assert judge.loss([(0, 5 * S)], [(0, 5 * S), (9 * S, 12 * S)]).lost == []


def test_lateness_is_what_was_sent_and_cannot_be_searched_yet() -> None:
    sent = [(0, 10 * S), (50 * S, 60 * S)]
    assert judge.lateness_us(Look(10 * S, 7 * S), sent) == 3 * S
    assert judge.lateness_us(Look(55 * S, 10 * S), sent) == 5 * S
    assert judge.lateness_us(Look(40 * S, 10 * S), sent) == 0


def test_a_spread_names_its_middle_and_its_end() -> None:
    assert judge.spread([]) is None
    found = judge.spread([float(number) for number in range(1, 101)])
    assert found is not None
    assert (found.count, found.p50, found.p95, found.most) == (100, 50, 95, 100)


def test_counters_of_a_restarted_process_are_added_up() -> None:
    increases = scrape.Increases()
    line = 'lamppost_frames_sampled_total{{process="{}"}} {}\n'
    increases.take(line.format("a", 100) + line.format("b", 50))
    increases.take(line.format("a", 130) + line.format("b", 60))
    increases.take(line.format("a", 20) + line.format("c", 7))
    increases.take(line.format("b", 61))
    assert increases.total("lamppost_frames_sampled") == 30 + 10 + 20 + 7 + 1


def test_counters_are_told_by_their_label_and_gauges_are_not() -> None:
    increases = scrape.Increases()
    increases.take("")
    increases.take(
        '# HELP lamppost_gap_seconds x\nlamppost_gap_seconds_total{reason="silent",process="a"} 2\n'
        'lamppost_gap_seconds_total{process="b",reason="silent"} 1.5\n'
        'lamppost_gap_seconds_total{reason="frozen"} 0.0\nlamppost_spool_items 5\n'
    )
    assert increases.by("lamppost_gap_seconds", "reason") == {"silent": 3.5}
    assert increases.total("lamppost_spool_items") == 0


def test_a_histogram_gives_its_quantiles() -> None:
    increases = scrape.Increases()
    bucket = 'lamppost_frame_age_seconds_bucket{{le="{}"}} {}\n'
    increases.take("")
    assert increases.quantile("lamppost_frame_age_seconds", 0.5) is None
    increases.take(
        bucket.format("0.1", 50) + bucket.format("0.2", 100) + bucket.format("+Inf", 100)
    )
    assert increases.quantile("lamppost_frame_age_seconds", 0.5) == pytest.approx(0.1)
    assert increases.quantile("lamppost_frame_age_seconds", 0.95) == pytest.approx(0.19)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/v/bin/python -m services run ingest --parent 7", "ingest"),
        ("/v/bin/python /v/bin/lamppost run archive --spool", "archive-spool"),
        ("/v/bin/python /v/bin/lamppost run archive --index", "archive-index"),
        ("/v/bin/python /v/bin/lamppost run", "all"),
        ("/v/bin/python -m services run --for 20s", "all"),
        ("/v/bin/python -m services replay a.mp4", None),
        ("/v/bin/python -m services.replay.worker", None),
        ("npm run ingest", None),
        ("run ingest", None),
        ("/v/bin/python -m services run nonsense", None),
    ],
)
def test_services_are_known_by_their_command_line(command: str, name: str | None) -> None:
    assert service_of(command.split()) == name


def test_what_is_watched_must_be_there() -> None:
    for text in ("x", "broker=", "=5", "999999999"):
        with pytest.raises(LamppostError):
            parse_watch([text])


def test_the_cost_of_this_process_is_what_it_used_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.psutil, "process_iter", lambda: [processes.psutil.Process()])
    clock = SimulatedClock()
    found = Processes(clock, parse_watch([f"me={os.getpid()}"]), ())
    found.look()
    assert found.costs["me"].cpu_s < 0.5
    sum(number * number for number in range(2_000_000))
    found.look()
    cost = found.costs["me"]
    assert 0.01 < cost.cpu_s < 5 and cost.processes == 1 and cost.started == 0
    assert cost.pss_max_bytes > 1_000_000


def test_what_workers_counted_is_added_up() -> None:
    one = Word("end", streams={"a": Count(5, 50, 1, ended={"client": 1}, spans=[(1, 2)])})
    two = Word(
        "end", streams={"a": Count(7, 70, 2, ended={"client": 1, "slow": 1}, spans=[(3, 4)])}
    )
    found = together([one, two])["a"]
    assert (found.pictures, found.size_bytes, found.sessions) == (12, 120, 3)
    assert found.ended == {"client": 2, "slow": 1} and found.spans == [(1, 2), (3, 4)]
    assert one.streams["a"].pictures == 5


def _report(lost_s: float = 0.0) -> Report:
    sent = Sent(
        2, 1, 60.0, 3000, 9_000_000, 1.2e6, 2, {"stopped": 2}, 0, 120.0, 0.02, 0, 0.4, 0.003
    )
    fate = Fate("cam-001", 1500, 60.0, lost_s=lost_s, lost_spans=[(1, 2)] if lost_s else [])
    archive = Archive(
        recorded_s=119.0, lost_s=lost_s, edge_s=0.1, gaps_s={"connecting": 1.0}, pending_s=0.0,
        unaccounted_s=0.0, late_s=judge.spread([1.0, 2.0]), counters={"lamppost_frames_sampled": 9},
        dropped={"lamppost_frames_dropped": {"queue": 2.0}}, frame_age_s={"p95": 0.2}, filed_s={},
        events=3, frame_to_event_s=None,
    )  # fmt: skip
    service = Service("ingest", 1, 0, 6.0, 0.1, 0.05, 90 << 20, 90 << 20, 45 << 20)
    return Report(0, 60 * S, "", sent, [service], [fate], archive, ["A note."])


def test_a_report_is_clean_when_nothing_is_lost_and_nobody_was_slow() -> None:
    assert _report().clean and not _report(2.0).clean
    slow = _report()
    slow.sent.ended["slow"] = 1
    assert not slow.clean
    half = _report()
    half.sent.lost_processes = 1
    assert not half.clean
    unread = _report()
    assert unread.archive is not None
    unread.archive.unread = 1
    assert not unread.clean


def test_a_report_reads_as_text_and_as_json() -> None:
    out = io.StringIO()
    report.printer(_report(2.0))(Console(width=200, file=out))
    text = out.getvalue()
    for part in ("2 cameras", "lost 2.00 s", "cam-001 lost", "p95 2.00 s", "ingest", "A note."):
        assert part in text
    value = json.loads(report.to_json(_report(2.0)))
    assert value["archive"]["late_s"]["p95"] == 2.0
    assert value["cameras"][0]["lost_spans"] == [[1, 2]]
