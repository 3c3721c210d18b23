"""A limit on decoded audio in the server: a small file of silence may last for hours."""

from threading import Lock

from caad_ds.serving.server.refusals import Refused


class Room:
    """Seconds of audio: `inside` for all requests together, `of_request` for each."""

    def __init__(self, inside: float, of_request: float):
        self.inside, self.of_request = inside, of_request
        self.taken = 0.0
        self.lock = Lock()  # audio is decoded in several threads


class Share:
    """The part of a room that a request occupies until it ends."""

    def __init__(self, room: Room):
        self._room, self._taken, self._ended = room, 0.0, False

    @property
    def left(self) -> float:
        """Return how many more seconds the request may have."""
        return self._room.of_request - self._taken

    def too_much(self) -> Refused:
        """Return the error of a request that exceeds its limit."""
        return Refused(400, f"messages: the clips last more than {self._room.of_request:g} s together; give fewer")

    def take(self, seconds: float) -> None:
        """Occupy room for a clip; Refused if the request exceeds its limit (400), or all requests together do (429)."""
        room = self._room
        if self._taken + seconds > room.of_request:
            raise self.too_much()
        with room.lock:
            if self._ended or room.taken + seconds > room.inside:
                raise Refused(429, f"the requests inside have {room.taken:.0f} s of audio already; ask again later")
            room.taken += seconds
            self._taken += seconds

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *_: object) -> None:
        with self._room.lock:
            self._ended = True  # a clip of it that is still being decoded is refused
            self._room.taken -= self._taken
