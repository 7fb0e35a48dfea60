"""Pictures of a boot: some seconds apart, no two alike in a row, and never many."""

from __future__ import annotations

from pathlib import Path

from pipeline.hypervisor.film import EVERY, MOST, Film


class Screen:
    """A screen that shows `text`, and a clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.text = b"SeaBIOS"
        self.taken = 0

    def take(self, path: Path) -> bool:
        self.taken += 1
        path.write_bytes(self.text)
        return True


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_waits_between_pictures_and_keeps_no_two_alike(tmp_path: Path) -> None:
    screen = Screen()
    film = Film(tmp_path / "screens", screen.take, lambda: screen.now)
    film.roll()
    film.roll()
    assert screen.taken == 1 and names(tmp_path / "screens") == ["00000.png"]
    screen.now += EVERY
    film.roll()
    assert screen.taken == 2 and names(tmp_path / "screens") == ["00000.png"]
    screen.now, screen.text = screen.now + EVERY, b"login:"
    film.roll()
    assert names(tmp_path / "screens") == ["00000.png", f"{2 * EVERY:05.0f}.png"]


def test_a_long_boot_keeps_few_pictures_of_all_of_it(tmp_path: Path) -> None:
    screen = Screen()
    film = Film(tmp_path / "screens", screen.take, lambda: screen.now)
    for second in range(2000):
        screen.now, screen.text = 100.0 + second, str(second).encode()
        film.roll()
    seconds = [int(name[:5]) for name in names(tmp_path / "screens")]
    assert len(seconds) <= MOST and seconds[0] == 0 and seconds[-1] > 1500


def test_a_machine_without_a_screen_has_no_picture(tmp_path: Path) -> None:
    Film(tmp_path / "screens", lambda _path: False).roll()
    assert names(tmp_path / "screens") == []


def test_a_full_disk_does_not_end_a_boot(tmp_path: Path) -> None:
    (tmp_path / "screens").write_text("a file in the place of the folder")
    Film(tmp_path / "screens", Screen().take).roll()
