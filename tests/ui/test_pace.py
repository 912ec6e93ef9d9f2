"""How often pages look: few pages every 4 s, many so that all together stay below a bound."""

from __future__ import annotations

import pytest

from ui import pace


@pytest.mark.parametrize(("pages", "seconds"), [(1, 4), (5, 4), (8, 8), (20, 16), (40, 32)])
def test_many_pages_look_less_often_each(pages: int, seconds: int):
    looks, due = pace.Looks(), [4.0 * number / pages for number in range(pages)]
    now = 0.0
    while now < 300:
        number = min(range(pages), key=due.__getitem__)
        now = due[number]
        due[number] = now + looks.next(now)
    assert looks.seconds == seconds and pages / seconds <= pace.MOST_A_SECOND
    assert [looks.next(now + 1000 + 4 * number) for number in range(3)] == [4, 4, 4], "one page alone again"
