"""What `bench partition` makes of what it has seen, without its cluster."""

from pathlib import Path

from uadray.bench.partition import CUT_S, Story, next_event
from uadray.bench.scraping import what_is_scraped

N = 30


def test_events_come_in_their_order() -> None:
    """One slide a second; the node is declared dead 25 s after it was cut off, and is back 12 s after it may."""
    story = Story()
    for second in range(200):
        decided = min(N, second // 5)
        story.seen.append((float(second), decided))
        is_alive = not 80 <= second < 122 if second else None
        event = next_event(story, decided, N, is_alive=is_alive)
        if event:
            story.events[event] = float(second)
    assert story.events == {
        "first": 5.0, "cut": 50.0, "noticed": 80.0, "through": 50.0 + CUT_S, "back": 122.0, "late": 123.0,
        "nearly_done": 145.0,
    }  # fmt: skip
    assert story.rates() == {"before": 0.2, "while": 0.2, "after": 0.22, "at_the_end": 0.23}


def test_what_did_not_come_has_no_rate() -> None:
    story = Story(seen=[(1.0, 0), (2.0, 3)], events={"first": 2.0})
    assert story.rates() == {"before": None, "while": None, "after": None, "at_the_end": None}
    assert story.per_second("first", "first") is None


def test_a_head_that_does_not_answer_has_not_lost_the_node() -> None:
    story = Story(seen=[(60.0, 9)], events={"first": 1.0, "cut": 20.0})
    assert next_event(story, 9, N, is_alive=None) == ""
    assert next_event(story, 9, N, is_alive=False) == "noticed"


def test_prometheus_is_told_of_rays_nodes_and_of_the_exporter() -> None:
    ray, exporter = what_is_scraped(Path("x/d.json"), "10.0.0.1:9464")["scrape_configs"]
    assert ray["file_sd_configs"][0]["files"] == ["x/d.json"]
    assert exporter == {"job_name": "uadray-exporter", "static_configs": [{"targets": ["10.0.0.1:9464"]}]}
