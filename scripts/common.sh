# What every script here starts with, read by `source`: it goes to the project's root, takes --gpu out of the
# arguments, and sets `caller` to the folder it was called from and `python` to the interpreter of an environment that has the package and its dependencies.
#
#   .venv       made here, with the torch that constraints.txt names
#   .venv-gpu   made here for --gpu, with whatever torch the machine's Python has, or else the newest one
#   an active virtual environment that has torch is used as it is; nothing is installed into it

set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
gpu=
for argument; do
    shift
    if [ "$argument" = --gpu ]; then gpu=yes; else set -- "$@" "$argument"; fi
done

say() { printf '%s\n' "slimgraph: $*" >&2; }
fail() { say "$@"; exit 1; }
has_torch() { "$1" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("torch") is None)' 2>/dev/null; }

# Prints the first usable Python; with --gpu one that has torch is preferred. A command that exists need not run
# (version managers leave such shims), so each is asked for its version.
find_python() {
    local candidate version seen='' first=''
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        seen="$seen $candidate is $version,"
        case $version in 3.11 | 3.12 | 3.13) ;; *) continue ;; esac
        : "${first:=$candidate}"
        if [ -z "$gpu" ] || has_torch "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    [ -n "$first" ] || fail "Python 3.11, 3.12 or 3.13 is needed; found:${seen:- none,} please install one of them."
    echo "$first"
}

# uv installs several times faster than pip. It does not read pip's variables, so those that say where packages come
# from are handed on. Whoever does not have uv gets it into the new environment.
install_with_uv() {
    local env=$1 uv=uv
    shift
    if ! command -v uv >/dev/null; then
        "$env/bin/python" -m pip install -q uv 2>/dev/null || return
        uv=$env/bin/uv
    fi
    [ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}"
    [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
    [ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"
    [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
    "$uv" pip install --python "$env/bin/python" "$@"
}

# Makes the environment $1 if pyproject.toml or constraints.txt changed, or if it never got finished.
make_environment() {
    local env=$1 stamp wanted base only_pip='' seconds=$SECONDS
    wanted=$(printf '%s\n' "$root" | cat - pyproject.toml constraints.txt | cksum)
    stamp=$env/slimgraph.stamp
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$env/bin/python" -c '' 2>/dev/null; then return; fi
    if [ -e "$env" ] && [ ! -e "$stamp" ]; then
        fail "$env was not made by these scripts; activate it to have it used, or remove it to have it made"
    fi

    base=$(find_python) || exit 1
    say "making $env with $("$base" --version) (once: about a minute, longer where torch comes over a slow line)"
    rm -rf "$env"
    mkdir "$env"
    echo unfinished >"$stamp"
    "$base" -m venv ${gpu:+--system-site-packages} "$env" || fail "no virtual environment could be made, see above"

    # On a terminal the downloads are shown.
    set -- -c "$env/constraints.txt" -e '.[dev]'
    if [ ! -t 2 ]; then set -- -q "$@"; fi
    if [ -n "$gpu" ]; then grep -v '^torch==' constraints.txt; else cat constraints.txt; fi >"$env/constraints.txt"
    # Only pip counts what stands outside the environment; uv would fetch a second torch.
    if has_torch "$env/bin/python"; then only_pip=yes; fi
    if [ -n "$only_pip" ] || ! install_with_uv "$env" "$@"; then
        [ -n "$only_pip" ] || say "uv did not get through; now with pip, which takes longer"
        "$env/bin/python" -m pip install "$@" ||
            fail "the packages could not be installed, see above. Is the package index within reach?" \
                "pip's own settings and PIP_* variables are followed."
    fi
    echo "$wanted" >"$stamp"
    say "made $env in $((SECONDS - seconds)) s"
}

# Prints what pyproject.toml asks for and the environment of interpreter $1 lacks.
missing_from() {
    "$1" - <<'PYTHON'
import importlib.metadata, re, sys

if sys.version_info < (3, 11):
    sys.exit("slimgraph needs Python 3.11 or newer, the active environment has %d.%d" % sys.version_info[:2])
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
wanted = project["dependencies"] + extras["examples"] + extras["test"]
for name in (re.match(r"[\w.-]+", line)[0] for line in wanted if ";" not in line):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name, end=" ")
PYTHON
}

if [ -n "${VIRTUAL_ENV:-}" ] && [ ! -e "$VIRTUAL_ENV/slimgraph.stamp" ] && has_torch "$VIRTUAL_ENV/bin/python"; then
    python=$VIRTUAL_ENV/bin/python
    say "using the active environment $VIRTUAL_ENV as it is"
    missing=$(missing_from "$python") || exit 1
    [ -z "$missing" ] || fail "the active environment lacks $missing" \
        "- run: pip install -e '.[dev]' in it, or: deactivate, to have .venv made"
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
else
    # An environment is never made from another one that may be about to go.
    [ -z "${VIRTUAL_ENV:-}" ] || PATH=${PATH//"$VIRTUAL_ENV/bin:"/}
    environment=.venv${gpu:+-gpu}
    # Two scripts started together make one environment: the second waits. The lock ends with the parentheses.
    (
        if command -v flock >/dev/null; then flock 9; fi
        make_environment "$environment"
    ) 9<scripts/common.sh
    python=$root/$environment/bin/python
fi
