"""End-to-end: what a program defines in its `__main__`, however it was started.

Each scenario is typed into a program without any guard.  Its chunks are separated by
empty lines, so that it can be typed at a prompt, and into the cells of a notebook.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import zipapp

import pytest

from helpers import CHECKOUT, run_program

LIMIT = 30  # seconds

HEAD = """
from forkrpc import Forker, event

print("the program itself")

"""

SCENARIOS = {
    "a method uses a global that changes later": """
        rate = 2

        class Price:
            def __init__(self, n): self.n = n
            def total(self): return self.n * rate

        def total(price): return price.total(), price

        with Forker().run(total) as proxy:
            there, first = proxy.call(Price(10))
            print(there, first.total(), type(first) is Price)
            rate = 3
            there, second = proxy.call(Price(10))
            print(there, first.total(), second.total(), Price(10).total())

        #> 20 20 True
        #> 20 30 30 30
        """,
    "a worker that starts later gets the class as it is then": """
        extra = 10

        class Config:
            level = 1
            def get(self): return self.level + extra

        def get(config): return config.get(), Config.level, extra

        with Forker().run(get) as proxy:
            print(*proxy.call(Config()))

        extra = 20

        Config.level = 5

        with Forker().run(get) as proxy:
            print(*proxy.call(Config()))

        #> 11 1 10
        #> 25 5 20
        """,
    "class attributes belong to each side": """
        class Counter:
            total = 0
            names = []
            def add(self, name):
                Counter.total += 1
                self.names.append(name)
                return type(self) is Counter, self.total, Counter.names

        def add(counter, name): return counter.add(name), Counter.total

        with Forker().run(add) as proxy:
            print(*proxy.call(Counter(), "a"))
            Counter.total = 100
            print(*proxy.call(Counter(), "b"))
            print(Counter.total, Counter.names)

        #> (True, 1, ['a']) 1
        #> (True, 2, ['a', 'b']) 2
        #> 100 []
        """,
    "members of an enumeration are the same objects": """
        import enum

        class Color(enum.Enum):
            RED = 1
            GREEN = 2
            def other(self): return Color.GREEN if self is Color.RED else Color.RED

        class Right(enum.Flag):
            READ = enum.auto()
            WRITE = enum.auto()

        def look(color, right):
            table = {color: right | Right.WRITE}
            return color is Color.RED, color.other(), table, Color

        with Forker().run(look) as proxy:
            for _ in range(2):
                red, other, table, kind = proxy.call(Color.RED, Right.READ)
                print(red, other is Color.GREEN, kind is Color)
                print(table[Color.RED] == Right.READ | Right.WRITE)

        print(list(Color), Color(1) is Color.RED, Color["GREEN"] is other)

        #> True True True
        #> True
        #> True True True
        #> True
        #> [<Color.RED: 1>, <Color.GREEN: 2>] True True
        """,
    "subclasses know their bases": """
        import abc, collections

        class Shape(abc.ABC):
            unit = "cm2"
            @abc.abstractmethod
            def area(self): ...
            def tell(self): return f"{type(self).__name__} {self.area()} {self.unit}"

        class Square(Shape):
            def __init__(self, side): self.side = side
            def area(self): return self.side ** 2

        class Cube(Square):
            __slots__ = ()
            def area(self): return 6 * super().area()

        class Names(list):
            pass

        class Pair(collections.namedtuple("Pair", "one two")):
            def sum(self): return self.one + self.two

        def look(*things):
            kinds = Shape, Square, Cube, list, tuple
            bases = [[k.__name__ for k in kinds if isinstance(x, k)] for x in things]
            return bases, things

        with Forker().run(look) as proxy:
            _, (square,) = proxy.call(Square(2))
            print(square.tell(), type(square) is Square)
            bases, things = proxy.call(Cube(2), square, Names("ab"), Pair(1, 2))
            print(*bases)
            print([type(x) for x in things] == [Cube, Square, Names, Pair])
            print(things[0].tell(), things[2], things[3], things[3].sum())

        #> Square 4 cm2 True
        #> ['Shape', 'Square', 'Cube'] ['Shape', 'Square'] ['list'] ['tuple']
        #> True
        #> Cube 24 cm2 ['a', 'b'] Pair(one=1, two=2) 3
        """,
    "data classes": """
        import dataclasses

        @dataclasses.dataclass(frozen=True, order=True)
        class Point:
            x: int
            y: int = 0
            tags: list = dataclasses.field(default_factory=list, compare=False)

        @dataclasses.dataclass
        class Box:
            corner: Point
            size: "int" = 1

        def grow(box):
            return dataclasses.replace(box, size=box.size + 1), box.corner > Point(0)

        with Forker().run(grow) as proxy:
            back, after = proxy.call(Box(Point(1)))
            print(back, after)
            print(back == Box(Point(1), 2), type(back.corner) is Point)
            print(hash(back.corner) == hash(Point(1)), dataclasses.asdict(back))

        #> Box(corner=Point(x=1, y=0, tags=[]), size=2) True
        #> True True
        #> True {'corner': {'x': 1, 'y': 0, 'tags': []}, 'size': 2}
        """,
    "an exception is caught by its class": """
        class ShopError(Exception):
            pass

        class SoldOut(ShopError):
            def __init__(self, name, left):
                super().__init__(name, left)
                self.name = name
            def __str__(self): return f"{self.name} is sold out"

        def buy(name):
            try:
                raise SoldOut(name, 0)
            except ShopError as error:
                print(type(error) is SoldOut)
                raise

        with Forker().run(buy, stdout="null") as proxy:
            for kind in (SoldOut, ShopError):
                try:
                    proxy.call("tea")
                except kind as error:
                    print(type(error) is SoldOut, error, error.args, error.name)

        def catch(error):
            try:
                raise error
            except ShopError:
                return "caught there"

        with Forker().run(catch) as proxy:
            print(proxy.call(SoldOut("milk", 1)))

        #> True tea is sold out ('tea', 0) tea
        #> True tea is sold out ('tea', 0) tea
        #> caught there
        """,
    "two workers share the classes": """
        class Token:
            def __init__(self, n): self.n = n

        def make(n): return Token(n)

        def check(token): return type(token) is Token, token.n

        with Forker() as template, template.run(make) as maker:
            with template.run(check) as checker, Forker.new_exec().run(check) as other:
                for n in range(2):
                    token = maker.call(n)
                    print(type(token) is Token, checker.call(token), other.call(token))

        #> True (True, 0) (True, 0)
        #> True (True, 1) (True, 1)
        """,
    "two classes of one name": """
        class Point:
            def where(self): return "old"

        old = Point()

        def where(point): return point.where(), point

        with Forker().run(where) as proxy:
            print(proxy.call(old)[0])
            class Point:
                def where(self): return "new"
            new = Point()
            for sent in (old, new, old):
                there, back = proxy.call(sent)
                print(there, back.where(), type(back) is type(sent))

        print(type(old) is type(new), type(new) is Point)

        #> old
        #> old old True
        #> new new True
        #> old old True
        #> False True
        """,
    "nothing that arrives changes what is here": """
        class Stock:
            limit = 3
            def __init__(self): self.items = []
            def count(self): return len(self.items)

        def look(stock):
            Stock.limit, Stock.count, Stock.added = 99, None, True
            stock.items.append("there")
            return stock, Stock, {Stock: [Stock]}

        kept, function = dict(vars(Stock)), look

        with Forker().run(look) as proxy:
            for _ in range(3):
                back, kind, table = proxy.call(Stock())

        print(kind is Stock, table == {Stock: [Stock]}, type(back) is Stock)

        print(back.items, back.count(), look is function)

        print(vars(Stock).keys() - kept.keys() <= {"__slotnames__"})  # by copyreg

        print(all(vars(Stock)[name] is value for name, value in kept.items()))

        #> True True True
        #> ['there'] 1 True
        #> True
        #> True
        """,
    "functions take along what they use": """
        import functools

        calls = []

        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

        def counted(function):
            @functools.wraps(function)
            def inner(*args, plus=0):
                calls.append(args)
                return function(*args) + plus, len(calls)
            return inner

        @counted
        def work(n, step=1): return fib(n) + step

        class Greeter:
            def __init__(self, word): self.word = word
            def __call__(self, name): return f"{self.word} {name}"
            def shout(self, name): return self(name).upper()

        with Forker().run(work) as proxy:
            print(proxy.call(10), proxy.call(10, 2, plus=3), calls)

        with Forker().send_arg("hello").run(Greeter) as proxy:
            print(proxy.call("you"))

        with Forker().run(Greeter("bye")) as proxy:
            print(proxy.call("you"))

        with Forker().run(Greeter("hey").shout) as proxy:
            print(proxy.call("you"))

        with Forker().run(lambda n: [fib(n), Greeter("a")(n)]) as proxy:
            print(proxy.call(8))

        with Forker().run(functools.partial(fib, 9)) as proxy:
            print(proxy.call())

        #> (56, 1) (60, 2) []
        #> hello you
        #> bye you
        #> HEY YOU
        #> [21, 'a 8']
        #> 34
        """,
    "values, functions and classes go along with a call": """
        class Item:
            def __init__(self, n): self.n = n

        def double(n): return 2 * n

        def use(function, kind, n): return function(n), kind(n), function, kind

        with Forker().run(use) as proxy:
            number, item, function, kind = proxy.call(double, Item, 4)
            print(number, item.n, type(item) is Item, kind is Item, function(5))
            print(proxy.call(lambda n: double(n), list, "a")[:2])

        #> 8 4 True True 10
        #> ('aa', ['a'])
        """,
    "events and arguments of workers": """
        class Note:
            def __init__(self, text): self.text = text

        class Teller:
            def __init__(self, note): self.note = note
            def __call__(self):
                event(self.note)
                event(Note("made there"))
                return type(self.note) is Note

        notes = []

        template = Forker().send_arg(Note("sent along"))

        with template, template.run(Teller, on_event=notes.append) as proxy:
            print(proxy.call(), proxy.drain())
            print([(type(note) is Note, note.text) for note in notes])

        template = Forker().eval("def get(n): return args[n]", Note("by eval"))

        with template, template.run("get") as proxy:
            print(type(proxy.call(0)) is Note, proxy.call(0).text)

        #> True True
        #> [(True, 'sent along'), (True, 'made there')]
        #> True by eval
        """,
    "a class of a template arrives as one class": """
        source = '''
        class Leaf:
            def __init__(self, n): self.n = n
            def double(self): return 2 * self.n
        class Withered(Exception): pass
        def leaf(given):
            if given is None: raise Withered("no leaf")
            return isinstance(given, Leaf) or Leaf(given)
        '''

        import textwrap

        with Forker().eval(textwrap.dedent(source)).run("leaf") as it:
            one, two = it.call(1), it.call(2)
            print(type(one) is type(two), two.double(), type(one).__name__)
            print(it.call(one), it.call(two), "Leaf" in globals())
            try:
                it.call(None)
            except Exception as error:
                print(type(error).__name__, error)

        #> True 4 Leaf
        #> True True False
        #> Withered no leaf
        """,
    "classes that need each other": """
        class Meta(type):
            def __len__(cls): return 7

        class Tree(metaclass=Meta):
            class Node:
                def tree(self): return Tree
            def __init__(self): self.up = self
            def node(self): return Tree.Node()
            def leaf(self): return Leaf(self)

        class Leaf:
            def __init__(self, tree): self.tree = tree
            def ok(self): return isinstance(self.tree, Tree)

        def look(tree): return len(type(tree)), tree.node(), tree.leaf(), tree

        with Forker().run(look) as proxy:
            for _ in range(2):
                count, node, leaf, tree = proxy.call(Tree())
                print(count, type(node) is Tree.Node, type(leaf) is Leaf, leaf.ok())
                print(node.tree() is Tree, tree.up is tree, leaf.tree is tree)

        #> 7 True True True
        #> True True True
        #> 7 True True True
        #> True True True
        """,
}


def program_of(scenario):
    return HEAD.lstrip() + textwrap.dedent(SCENARIOS[scenario]).lstrip()


def expected_of(scenario):
    lines = re.findall(r"^ *#> (.*)$", SCENARIOS[scenario], re.MULTILINE)
    return ["the program itself", *lines]


def chunks_of(text):
    """Return what is typed at each prompt, or into each cell."""
    parts = re.split(r"\n\n+(?=\S)", text.strip())
    return [part + "\n" for part in parts if not part.startswith("#>")]


def run(command, folder, **options):
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **options.pop("env", {})}
    options = {"stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        **options,
    )


# Ways to start a program: functions that run a text.


def as_script(text, folder):
    (folder / "program.py").write_text(text)
    return run(["program.py"], folder)


def as_module(text, folder):
    (folder / "package").mkdir()
    (folder / "package" / "__main__.py").write_text(text)
    return run(["-m", "package"], folder)


def as_command(text, folder):
    return run(["-c", text], folder)


def as_standard_input(text, folder):
    return run(["-"], folder, input=text)


def as_zipapp(text, folder):
    (folder / "app").mkdir()
    (folder / "app" / "__main__.py").write_text(text)
    zipapp.create_archive(folder / "app", folder / "app.pyz")
    return run(["app.pyz"], folder)


def at_the_prompt(text, folder):
    typed = "\n".join(chunks_of(text))
    done = run(["-i", "-q"], folder, input=typed + "\n")
    rest = re.sub(r"(>>>|\.\.\.) ?|\n", "", done.stderr)  # prompts
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, rest)


WAYS = [
    as_script,
    as_module,
    as_command,
    as_standard_input,
    as_zipapp,
    at_the_prompt,
]


def scenarios_by_way():
    """Yield all pairs; each scenario with three of the ways is not slow."""
    for number, scenario in enumerate(SCENARIOS):
        for place, way in enumerate(WAYS):
            common = way in (as_script, at_the_prompt) or place == 1 + number % 4
            marks = () if common else pytest.mark.slow
            yield pytest.param(
                way, scenario, marks=marks, id=f"{scenario}-{way.__name__}"
            )


@pytest.mark.parametrize(("way", "scenario"), list(scenarios_by_way()))
def test_what_is_defined_in_main_works_in_both_processes(way, scenario, tmp_path):
    done = way(program_of(scenario), tmp_path)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == expected_of(scenario)


def test_a_zipapp_may_contain_the_library_and_modules_of_its_own(tmp_path):
    app = tmp_path / "app"
    for path in (CHECKOUT / "forkrpc").glob("**/*.py"):
        copy = app / path.relative_to(CHECKOUT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (app / "own.py").write_text("def triple(n): return 3 * n")
    (app / "__main__.py").write_text(
        "import forkrpc, own\n"
        "class Number:\n"
        "    def __init__(self, n): self.n = n\n"
        "def work(number): return Number(own.triple(number.n))\n"
        "print('app.pyz' in forkrpc.__file__)\n"
        "for template in (forkrpc.Forker(), forkrpc.Forker.new_exec()):\n"
        "    print(template.run(work).call(Number(5)).n, end=' ')\n"
        "    print(template.require('own').run(own.triple).call(5))\n"
    )
    zipapp.create_archive(app, tmp_path / "app.pyz", compressed=True)

    done = run(["app.pyz"], tmp_path, env={"PYTHONPATH": ""})

    assert done.stderr == ""
    assert done.stdout == "True\n15 15\n15 15\n"


def test_a_call_at_the_prompt_of_a_terminal_is_interrupted_and_made_again(tmp_path):
    pexpect = pytest.importorskip("pexpect")
    os.mkfifo(tmp_path / "gate")
    env = {"PYTHONPATH": str(CHECKOUT), "PYTHON_BASIC_REPL": "1", "TERM": "dumb"}
    child = pexpect.spawn(
        sys.executable,
        ["-q"],
        cwd=str(tmp_path),
        env={**os.environ, **env},
        timeout=LIMIT,
        encoding="utf-8",
        echo=False,
    )

    def enter(text):
        for line in textwrap.dedent(text).strip("\n").split("\n"):
            child.expect(r"(>>>|\.\.\.) $")
            child.sendline(line)

    enter(
        """
        from forkrpc import Forker, event
        class Guest:
            def __init__(self, name): self.name = name

        def wait(guest):
            if guest.name == "first":
                event("it", "waits")
                open("gate").close()
            return guest

        proxy = Forker().run(wait, on_event=print)
        proxy.call(Guest("first"))
        """
    )
    child.expect("it waits")
    child.sendintr()
    child.expect("KeyboardInterrupt")
    child.expect(">>> $")
    (tmp_path / "gate").write_text("")
    child.sendline("back = proxy.call(Guest('second'))")
    enter("print(back.name, 'is', type(back) is Guest)")
    child.expect("second is True")
    enter("exit()")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 0


# A notebook.

NOTEBOOK = '''
    import json, sys
    from jupyter_client.manager import start_new_kernel

    def execute(code):
        """Return the lines that a cell prints, its error too."""
        texts = []  # not always whole lines

        def note(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] == "error":
                texts.append(f"{content['ename']}: {content['evalue']}\\n")

        client.execute_interactive(code, timeout=30, output_hook=note)
        return "".join(texts).splitlines()

    def shut_down():
        client.stop_channels()
        manager.shutdown_kernel(now=False)

    manager, client = start_new_kernel(kernel_name="python3")
    '''


def need_jupyter():
    for module in ("jupyter_client", "ipykernel"):
        if importlib.util.find_spec(module) is None:  # imported, it looks like a kernel
            pytest.skip(f"{module} is not installed")


def run_notebook(program, *args):
    """Run *program*, which has `execute` for cells of a kernel, and return its JSON."""
    source = textwrap.dedent(NOTEBOOK) + textwrap.dedent(program)
    done = run_program(source, *args, timeout=50)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_defined_in_a_notebook_works_in_both_processes():
    need_jupyter()
    cells = {name: chunks_of(program_of(name)) for name in SCENARIOS}

    printed = run_notebook(
        """
        scenarios = json.loads(sys.argv[1])
        printed = {}
        try:
            for name, cells in scenarios.items():
                execute("%reset -f")
                printed[name] = [line for cell in cells for line in execute(cell)]
        finally:
            shut_down()
        print(json.dumps(printed))
        """,
        json.dumps(cells),
    )

    assert printed == {name: expected_of(name) for name in SCENARIOS}


def test_a_call_in_a_notebook_is_interrupted_and_made_again(tmp_path):
    need_jupyter()
    os.mkfifo(tmp_path / "gate")
    os.mkfifo(tmp_path / "begun")

    outputs = run_notebook(
        """
        import os, threading
        from pathlib import Path

        gate, begun = Path(sys.argv[1], "gate"), Path(sys.argv[1], "begun")

        def interrupt():
            begun.read_text()  # ends when the worker has begun the call
            manager.interrupt_kernel()

        outputs = []
        try:
            outputs += execute(
                "from forkrpc import Forker\\n"
                "class Guest:\\n"
                "    def __init__(self, name): self.name = name\\n"
                "def wait(guest):\\n"
                "    if guest.name == 'first':\\n"
                f"        open('{begun}', 'w').close()\\n"
                f"        open('{gate}').close()\\n"
                "    return guest\\n"
                "proxy = Forker().run(wait)\\n"
                "print(proxy.call(Guest('before')).name)\\n"
            )
            thread = threading.Thread(target=interrupt)
            thread.start()
            outputs += execute("proxy.call(Guest('first'))")
            thread.join()
            gate.write_text("")
            outputs += execute(
                "back = proxy.call(Guest('second'))\\n"
                "print(back.name, type(back) is Guest, proxy.pending)\\n"
            )
        finally:
            shut_down()
        print(json.dumps(outputs))
        """,
        tmp_path,
    )

    assert outputs == ["before", "KeyboardInterrupt: ", "second True 0"]


def test_what_a_worker_says_appears_in_the_cell_that_made_the_call(tmp_path):
    need_jupyter()
    os.mkfifo(tmp_path / "gate")

    printed = run_notebook(
        """
        from pathlib import Path

        gate = Path(sys.argv[1], "gate")
        cells = [
            f\"\"\"
            import logging, os, warnings
            from forkrpc import Forker
            logging.basicConfig(format="%(name)s: %(message)s")

            def say(cell, gate=None):
                print("print of", cell, flush=True)
                if gate:
                    open(gate).close()
                logging.getLogger("worker").warning("record of %s", cell)
                warnings.warn(f"warning of {{cell}}")
                os.write(1, f"bytes of {{cell}}\\\\n".encode())

            proxy = Forker().run(say, stdout="forward", stderr="forward")
            proxy.call("first")
            proxy.drain();
            \"\"\",
            f"second = proxy.submit('second', '{gate}')",
            f"third = proxy.submit('third')",
            "import time; print('fourth')",
            f\"\"\"
            open('{gate}', 'w').close()
            third.result()
            proxy.close()
            proxy.join();
            print("last")
            \"\"\",
        ]
        import time
        from textwrap import dedent

        heard = {}
        ids = [client.execute(dedent(cell)) for cell in cells]
        end = time.monotonic() + 40
        try:
            while time.monotonic() < end and len(said := [
                line for text in heard.values() for line in text.splitlines()
            ]) < 14:
                message = client.get_iopub_msg(timeout=40)
                if message["msg_type"] == "stream":
                    cell = ids.index(message["parent_header"]["msg_id"])
                    text = message["content"]["text"]
                    heard[cell] = heard.get(cell, "") + text
        finally:
            shut_down()
        print(json.dumps(heard))
        """,
        tmp_path,
    )

    lines = {int(cell): sorted(text.splitlines()) for cell, text in printed.items()}
    low = []
    for cell, name in enumerate(["first", "second", "third"]):
        low.append([line for line in lines[cell] if line.startswith("bytes")])
        assert [
            line for line in lines[cell] if line.startswith(("print", "worker"))
        ] == [
            f"print of {name}",
            f"worker: record of {name}",
        ]
    # Through a pipe, which does not tell where a call that was queued has begun.
    assert low[0] == ["bytes of first"]
    assert sorted(low[1] + low[2]) == ["bytes of second", "bytes of third"]
    assert any(line.endswith("UserWarning: warning of first") for line in lines[0])
    assert lines[3] == ["fourth"]
    assert lines[4] == ["last"]


def test_what_workers_of_a_pool_say_appears_in_the_cell_that_made_the_call():
    need_jupyter()

    printed = run_notebook(
        """
        cells = [
            "import logging\\n"
            "from forkrpc import Forker\\n"
            "logging.basicConfig(format='%(message)s')\\n"
            "def say(cell):\\n"
            "    print('print of', cell, flush=True)\\n"
            "    logging.warning('record of %s', cell)\\n"
            "pool = Forker().pool(say, max=1, stdout='forward')\\n"
            "pool.call('first')\\n"
            "pool.drain();",
            "pool.submit('second').result()\\npool.drain();",
            "pool.close()\\npool.join();",
        ]
        printed = []
        try:
            for cell in cells:
                printed.append(sorted(execute(cell)))
        finally:
            shut_down()
        print(json.dumps(printed))
        """
    )

    assert printed == [
        ["print of first", "record of first"],
        ["print of second", "record of second"],
        [],
    ]
