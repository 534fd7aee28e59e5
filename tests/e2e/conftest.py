"""Fixtures of the end-to-end tests. tests/e2e/harness holds the classes.

POSTERN_BUILDS   the builds to test, of "dev tsan release" (default: dev); a test runs on dev, with the mark `tsan` on
                 tsan too, with the mark `release` on release instead
POSTERN_BIN      a folder with the programs, in place of build/<name>/bin of the one build that is tested
POSTERN_TIMEOUT_SCALE  stretches every time limit (default: 1, on the tsan build 3)
"""
import os
import resource
import signal

import pytest

from harness import Build, Certs, Lab, scaled, set_scale

KNOWN_BUILDS = ("dev", "tsan", "release")
TEST_SECONDS, SLOW_TEST_SECONDS = 90, 300


def pytest_configure(config):
    builds = (os.environ.get("POSTERN_BUILDS") or "dev").replace(",", " ").split()
    unknown = [name for name in builds if name not in KNOWN_BUILDS]
    if unknown:
        raise pytest.UsageError(f"POSTERN_BUILDS: unknown build: {unknown[0]}")
    if os.environ.get("POSTERN_BIN") and len(builds) > 1:
        raise pytest.UsageError("POSTERN_BIN goes with one build in POSTERN_BUILDS")
    config.postern_builds = builds
    # Crowds of visitors need descriptors, here and in the programs.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def builds_of(definition):
    """The builds that a test is meant for."""
    wanted = ["release" if definition.get_closest_marker("release") else "dev"]
    return wanted + ["tsan"] if definition.get_closest_marker("tsan") else wanted


def pytest_generate_tests(metafunc):
    if "build" not in metafunc.fixturenames:
        return
    wanted = builds_of(metafunc.definition)
    chosen = [name for name in wanted if name in metafunc.config.postern_builds]
    if not chosen:
        why = pytest.mark.skip(reason=f"not on the builds {' '.join(metafunc.config.postern_builds)}")
        chosen = [pytest.param(wanted[0], marks=why)]
    metafunc.parametrize("build", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def build(request):
    return Build.named(request.param)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    return Certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(autouse=True)
def time_limit(request):
    """Ends a test that hangs."""
    set_scale(getattr(request.node, "callspec", None) and request.node.callspec.params.get("build"))
    seconds = scaled(SLOW_TEST_SECONDS if request.node.get_closest_marker("slow") else TEST_SECONDS)

    def on_alarm(_number, _frame):
        pytest.fail(f"the test hangs: more than {seconds:g} s")
    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def lab(build, certs, tmp_path, time_limit):
    """Starts gateways, agents and targets; at the end stops them and fails on whatever they did wrong."""
    lab = Lab(build, certs, tmp_path)
    yield lab
    try:
        problems = lab.finish()
    finally:
        lab.kill_what_is_left()
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def gateway(lab):
    """A gateway with the default configuration of the tests."""
    return lab.gateway()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the last lines of its programs."""
    report = (yield).get_result()
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and call.when == "call" and lab:
        report.sections += [(f"{program.name}, last lines", "\n".join(program.lines[-40:]))
                            for program in lab.programs()]
