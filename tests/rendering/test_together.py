import threading

from service.rendering.together import Together


def test_what_answers_take_adds_up_wherever_they_are_made() -> None:
    together = Together()

    def take() -> None:
        for _ in range(1000):
            together.plan(1)
            together.add(1, 2, 3)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert together.plan(0) == 4000
    assert together.add(0, 0, 0) == (4000, 8000, 12000)
