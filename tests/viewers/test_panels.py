import pytest

from helpers.viewers import panels


@pytest.mark.parametrize(("count", "columns"), [(3, 3), (3, 2), (5, 5), (5, 2), (7, 3), (1, 2)])
def test_panels_are_square_inside_and_apart(count, columns):
    arranged = panels.arrange(count, columns)
    boxes = []
    for i in range(count):
        left, right = arranged.changes[f"{panels.key('x', i)}.domain"]
        low, high = arranged.changes[f"{panels.key('y', i)}.domain"]
        assert 0 <= left < right <= 1
        assert 0 <= low < high <= 1
        assert right - left == pytest.approx((high - low) * arranged.ratio, abs=1e-3)
        boxes.append((left, right, low, high))
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[1] or b[0] >= a[1] or a[2] >= b[3] or b[2] >= a[3]


def test_height_leaves_room_for_the_margins():
    arranged = panels.arrange(3, 3, gap=0)
    arranged.changes |= {"margin.l": 10, "margin.r": 90, "margin.t": 40, "margin.b": 60}
    assert arranged.height(700) == 600 / 3 + 100
