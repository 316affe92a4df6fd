"""End-to-end: records and warnings of a worker are handled by the program's loggers."""

import logging
import os
import sys
import threading
import warnings

import pytest

from forkrpc import Forker, event
from forkrpc.child import logs
from helpers import run_program


@pytest.fixture(scope="module")
def original():
    with Forker().require(__name__, "asyncio").ready() as template:
        yield template


@pytest.fixture
def template(original):
    with original.fork() as template:
        yield template


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def texts(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept():
    """A handler at the program's logger "shop", whose level is INFO."""
    logger, handler = logging.getLogger("shop"), Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def call(template, function, *args, **options):
    with template.run(function, **options) as proxy:
        return proxy.call(*args)


def say(*args, name="shop.till", level="WARNING", **options):
    logger = logging.getLogger(name)
    logger.log(getattr(logging, level), *args, stacklevel=1, **options)
    return os.getpid()


def say_by_hand(*texts):
    """Log without what cloudpickle would bring along: imports in the function."""
    import logging

    for text in texts:
        logging.getLogger("shop").warning(text)


# Records.


def test_a_record_arrives_as_it_was_made(template, kept):
    pid = call(template, say, "%d apples for %s", 3, "Ann")

    (record,) = kept.records
    assert record.getMessage() == "3 apples for Ann"
    assert (record.name, record.levelname) == ("shop.till", "WARNING")
    assert (record.process, record.processName) == (pid, "worker say")
    assert (record.funcName, record.module) == ("say", "test_child_logs")
    assert record.pathname == __file__
    assert record.threadName == "MainThread"
    assert record.args is None


def test_a_worker_that_imports_logging_itself_is_hooked_up_then(template, kept):
    with template.run(say_by_hand) as proxy:
        proxy.call("one", "two")
        proxy.call("three")

    assert kept.texts() == ["one", "two", "three"]


def test_records_come_in_order_with_events_and_results(template, kept):
    order = []
    kept.emit = lambda record: order.append(record.getMessage())

    def tell(number):
        import logging

        from forkrpc import event

        logging.getLogger("shop").info("before %d", number)
        event(number)
        logging.getLogger("shop").info("after %d", number)
        return f"result {number}"

    with template.run(tell, on_event=order.append) as proxy:
        for number in range(3):
            proxy(number, order.append)

    assert order == [
        text
        for n in range(3)
        for text in (f"before {n}", n, f"after {n}", f"result {n}")
    ]


def fail(text):
    try:
        raise LookupError(text)
    except LookupError:
        logging.getLogger("shop").exception("failed", stack_info=True)


def test_a_traceback_arrives_as_text_and_is_formatted(template, kept):
    call(template, fail, "apples")

    (record,) = kept.records
    assert record.exc_info is None
    assert record.stack_info.startswith("Stack (most recent call last)")
    shown = logging.Formatter("%(message)s").format(record)
    assert shown.startswith("failed\nTraceback")
    assert "LookupError: apples" in shown


class Fruit:
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"fruit {self.name}"


def unsendable_extra():
    extra = {"lock": threading.Lock(), "fruit": Fruit("pear"), "count": 3}
    logging.getLogger("shop").warning("%s", threading.Lock(), extra=extra)


@pytest.mark.parametrize(
    ("name", "fruit"),
    [("pickle", Fruit), ("portable-pickle", Fruit), ("json", str), ("bytes", str)],
)
def test_extra_fields_arrive_as_objects_where_they_can_and_as_text_else(
    template, kept, name, fruit
):
    with template.run(
        unsendable_extra if name != "bytes" else lambda _: unsendable_extra(),
        serialiser=name,
    ) as proxy:
        proxy.call(*([b""] if name == "bytes" else []))

    (record,) = kept.records
    assert type(record.fruit) is fruit
    assert str(record.fruit) == "fruit pear"
    assert record.lock.startswith("<unlocked _thread.lock")
    assert record.count == 3
    assert record.getMessage().startswith("<unlocked _thread.lock")


def test_without_trust_nothing_of_a_record_is_unpickled(template, kept):
    class Trap:
        def __reduce__(self):
            return print, ("sprung",)

    def spring():
        import logging

        logging.getLogger("shop").warning("message", extra={"trap": Trap()})

    call(template, spring, serialiser="data")

    (record,) = kept.records
    assert type(record.trap) is str


def test_arguments_that_do_not_fit_are_told_where_python_tells_it():
    done = run_program(
        """
        from forkrpc import Forker

        def misfit():
            import logging
            logging.getLogger("shop").warning("%d", "text")
            return 5

        with Forker().run(misfit) as proxy:
            print(proxy.call())
        """
    )

    assert done.stdout == "5\n"
    assert done.stderr.count("--- Logging error ---") == 1


# Levels.


def enabled(name, level):
    return logging.getLogger(name).isEnabledFor(level)


def test_the_programs_levels_hold_in_the_worker(template, kept):
    names = ["shop", "shop.till.drawer", "other", "root"]
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL]

    with template.run(enabled) as proxy:
        for name in names:
            for level in levels:
                assert proxy.call(name, level) is enabled(name, level), (name, level)


def test_the_levels_are_those_at_run(template, kept):
    with template.run(say) as proxy:
        logging.getLogger("shop").setLevel(logging.DEBUG)
        proxy.call("made at DEBUG", level="DEBUG")
        logging.getLogger("shop").setLevel(logging.ERROR)
        proxy.call("not wanted any more")
        proxy.call("still wanted", level="ERROR")

    assert kept.texts() == ["still wanted"]


def test_what_the_program_has_disabled_is_not_made(template, kept):
    logging.disable(logging.WARNING)
    try:
        with template.run(say) as proxy:
            proxy.call("disabled")
            proxy.call("error", level="ERROR")
    finally:
        logging.disable(logging.NOTSET)

    assert kept.texts() == ["error"]


def level_of(name):
    return logging.getLogger(name).level


def test_levels_that_the_workers_own_code_has_set_stay(template, kept):
    template.eval("import logging; logging.getLogger('shop').setLevel(logging.ERROR)")

    assert call(template, level_of, "shop") == logging.ERROR


def test_a_logger_that_is_louder_than_the_programs_forwards_no_more(template, kept):
    def loud():
        import logging

        logging.getLogger("shop.till").setLevel(logging.DEBUG)
        logging.getLogger("shop.till").debug("debug")
        logging.getLogger("shop.till").info("info")

    call(template, loud)

    assert kept.texts() == ["info"]


# Handlers of the worker's own.

OWN_HANDLERS = """
    import logging, sys
    from forkrpc import Forker

    def configure():
        import logging
        logging.basicConfig(level=logging.INFO, format="worker: %(message)s")

    def say():
        import logging
        logging.info("info")
        logging.getLogger("x").warning("warning")

    logging.basicConfig(format="program: %(message)s")
    """


@pytest.mark.parametrize("where", ["init=configure", "template"])
def test_a_record_is_shown_once_though_the_worker_has_a_console_too(where):
    run = "Forker().run(say, init=configure)"
    if where == "template":
        run = (
            "Forker().eval('import logging; logging.basicConfig(level=20, "
            'format="worker: %(message)s")\').run(say)'
        )
    done = run_program(f"{OWN_HANDLERS}\n    with {run} as proxy: proxy.call()\n")

    # What the program's levels hold back is still the worker's own affair.
    assert sorted(done.stderr.splitlines()) == ["program: warning", "worker: info"]


def test_a_console_that_goes_elsewhere_and_files_are_written_as_well(tmp_path):
    done = run_program(
        OWN_HANDLERS
        + """
    def to_file():
        import logging
        logging.basicConfig(filename=sys.argv[1] + "/file", format="f: %(message)s")

    with open(sys.argv[1] + "/errors", "w") as errors:
        with Forker().run(say, init=configure, stderr=errors) as proxy:
            proxy.call()
    path = sys.argv[1]
    with Forker().eval("import sys; sys.argv = args", "", path).run(
        say, init=to_file
    ) as proxy:
        proxy.call()
    """,
        tmp_path,
    )

    assert done.stderr == "program: warning\nprogram: warning\n"
    assert (tmp_path / "errors").read_text() == "worker: info\nworker: warning\n"
    assert (tmp_path / "file").read_text() == "f: warning\n"


def test_the_implicit_configuration_of_module_level_functions_shows_nothing_twice():
    done = run_program(
        OWN_HANDLERS
        + """
    def implicit():
        import logging
        logging.warning("one")
        logging.warning("two")

    with Forker().run(implicit) as proxy:
        proxy.call()
    """
    )

    assert done.stderr == "program: one\nprogram: two\n"


def test_a_logger_that_keeps_its_records_to_itself_does():
    done = run_program(
        OWN_HANDLERS
        + """
    def silent():
        import logging
        logging.getLogger("lib").propagate = False
        logging.getLogger("lib").addHandler(logging.NullHandler())
        logging.getLogger("lib.inner").warning("to nobody")
        logging.getLogger("urllib").addHandler(logging.NullHandler())
        logging.getLogger("urllib").warning("to all")

    with Forker().run(silent) as proxy:
        proxy.call()
    """
    )

    assert done.stderr == "program: to all\n"


def test_a_copy_of_the_program_does_not_use_the_programs_handlers(tmp_path):
    done = run_program(
        """
        import logging, sys
        from forkrpc import Forker

        logging.basicConfig(filename=sys.argv[1], format="%(message)s")
        def say(): logging.warning("once")
        with Forker.from_current_process() as template:
            with template.run(say) as proxy:
                proxy.call()
        """,
        tmp_path / "log",
    )

    assert done.stderr == ""
    assert (tmp_path / "log").read_text() == "once\n"


# Where it ends.


def test_without_logs_the_worker_is_on_its_own():
    done = run_program(
        OWN_HANDLERS
        + """
    with Forker().run(say, init=configure, logs=False) as proxy:
        proxy.call()
    """
    )

    assert done.stderr == "worker: info\nworker: warning\n"


def test_a_worker_that_logs_nothing_loads_nothing():
    with Forker().eval("import sys\ndef loaded(): return set(sys.modules)") as other:
        loaded = call(other, "loaded")

    assert loaded & {"logging", "warnings", "forkrpc.notes"} == set()


def test_records_made_in_init_arrive_before_all_else(template, kept):
    order = []
    kept.emit = lambda record: order.append(record.getMessage())

    with template.run(
        "os.getpid", init=lambda: say("from init"), on_event=order.append
    ) as proxy:
        proxy(lambda _: order.append("result"))

    assert order == ["from init", "result"]


def at_exit():
    import atexit

    atexit.register(say, "at exit")
    raise SystemExit("bye")


def test_records_made_at_the_end_arrive(template, kept, capfd):
    proxy = template.run(at_exit, on_error=lambda error: None)
    proxy.submit()
    proxy.join(10)

    assert kept.texts() == ["at exit"]


def test_what_was_logged_before_a_crash_is_not_lost(template, kept):
    def crash():
        for number in range(50):
            say("record %d", number)
        os.abort()

    proxy = template.run(crash, on_error=lambda error: None)
    proxy.submit().exception(10)
    proxy.join(10)

    assert kept.texts() == [f"record {number}" for number in range(50)]


def test_any_thread_of_the_worker_may_log(template, kept):
    def shout():
        threads = [
            threading.Thread(target=lambda: [say("loud") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for number in range(100):
            event(number)
        for thread in threads:
            thread.join()
        return "done"

    events = []
    with template.run(shout, on_event=events.append) as proxy:
        assert proxy.call() == "done"

    assert events == list(range(100))
    assert kept.texts() == ["loud"] * 200


def test_logging_while_a_record_is_sent_does_not_go_round_for_ever(
    template, kept, capfd
):
    class Chatty:
        def __reduce__(self):
            logging.getLogger("shop").warning("chatter", extra={"me": self})
            raise TypeError("not me")

    def chat():
        logging.getLogger("shop").warning("hello", extra={"who": Chatty()})
        return 1

    assert call(template, chat) == 1
    assert kept.texts() == ["hello"]
    assert "chatter" in capfd.readouterr().err  # of the last resort


def test_a_process_that_the_worker_forks_does_not_speak_for_it(template, kept, capfd):
    def fork():
        pid = os.fork()
        if not pid:
            say("from a copy")
            os._exit(0)
        os.waitpid(pid, 0)
        return 3

    with template.run(fork) as proxy:
        assert proxy.call() == 3
        assert proxy.call() == 3

    assert kept.texts() == []
    assert capfd.readouterr().err.count("from a copy") == 2


def test_a_handler_that_raises_disturbs_nothing(template, kept, monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args))

    def emit(record):
        raise RuntimeError("handler")

    kept.emit = emit
    results = []
    with template.run(say) as proxy:
        for number in range(3):
            proxy(str(number), results.append)

    assert len(results) == 3
    assert [str(each.exc_value) for each in reported] == ["handler"] * 3


@pytest.mark.parametrize("name", ["pickle", "data"])
def test_a_record_that_is_too_long_is_shortened(template, kept, name):
    with template.run(say, max_frame=4096, serialiser=name) as proxy:
        proxy.submit("x" * 1000).result()
        proxy.submit("short %s", 1).result()
        call(template, lambda: say("y" * 100_000), max_frame=4096, serialiser=name)

    assert kept.texts()[:2] == ["x" * 1000, "short 1"]
    assert kept.texts()[2] == "y" * 256 + "... (100000 characters)"


def test_the_frames_of_a_tiny_limit_still_break_nothing(template, kept, capfd):
    with template.run(say, max_frame=100) as proxy:
        assert proxy.call("tiny") == proxy.pid

    assert kept.texts() == []
    assert "tiny" in capfd.readouterr().err


# Warnings.


def warn(text, category=UserWarning):
    warnings.warn(text, category, stacklevel=1)


class OwnWarning(UserWarning):
    pass


@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, OwnWarning])
@pytest.mark.parametrize("name", ["pickle", "portable-pickle"])
def test_a_warning_is_shown_by_the_programs_machinery(template, category, name):
    with warnings.catch_warnings(record=True) as shown:
        call(template, warn, "careful", category, serialiser=name)

    (warning,) = shown
    assert str(warning.message) == "careful"
    assert warning.category is category
    assert warning.filename == __file__
    assert isinstance(warning.message, category)


def test_a_category_that_the_program_does_not_have_keeps_its_name(template):
    template.eval("class Strange(Warning): pass")

    def strange():
        import sys
        import warnings

        warnings.warn("odd", sys.modules["__main__"].Strange, stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        call(template, strange, serialiser="data")

    (warning,) = shown
    assert warning.category.__name__ == "Strange"
    assert str(warning.message) == "odd"


def test_the_filters_of_the_worker_decide(template):
    def warn_all():
        import warnings

        warnings.simplefilter("ignore")
        warnings.warn("ignored", stacklevel=1)
        with warnings.catch_warnings(record=True) as own:
            warnings.simplefilter("always")
            warnings.warn("the function's own", stacklevel=1)
        warnings.simplefilter("always")
        warnings.warn("shown", stacklevel=1)
        return len(own)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        assert call(template, warn_all) == 1

    assert [str(warning.message) for warning in shown] == ["shown"]


def test_warnings_that_the_worker_logs_are_records(template):
    logger, handler = logging.getLogger("py.warnings"), Kept()
    logger.addHandler(handler)

    def capture():
        import logging
        import warnings

        logging.captureWarnings(True)
        warnings.warn("logged", stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        call(template, capture)
    logger.removeHandler(handler)

    assert shown == []
    assert len(handler.records) == 1


# The hook of imports.


def test_the_hook_leaves_modules_as_they_are():
    done = run_program(
        """
        import sys
        sys.modules.pop("warnings", None)
        from forkrpc.child import logs
        logs.watch_imports()
        logs.watch_imports()
        print(sum(isinstance(each, logs.Finder) for each in sys.meta_path))
        import logging, warnings, json
        for module in logging, warnings:
            print(type(module.__loader__).__name__, module.__spec__.loader
                  is module.__loader__, module.__spec__.origin == module.__file__)
        """
    )

    assert done.stderr == ""
    assert done.stdout == "1\n" + 2 * "SourceFileLoader True True\n"


def test_the_hook_knows_nothing_of_other_modules():
    assert logs.Finder().find_spec("json") is None
    assert logs.Finder().find_spec("logging.handlers") is None
    assert sys.modules["logging"] is logging
