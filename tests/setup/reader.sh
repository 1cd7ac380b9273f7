# Sourced by install.sh: the packages of the second decoder, docs/reader/seawall_reader.py.

READER=$HERE/../../docs/reader
READER_PYTHON_AT_LEAST="3, 11"

reader_python() { echo "$CACHE/reader/bin/python"; }

# A virtual environment must not move, so it is made in its place and stamped last.
reader() {
  local recipe python=/usr/bin/python3
  recipe="reader recipe 1, $(cksum <"$READER/requirements.txt")"
  if stamped reader "$recipe"; then
    say "reader: present"
    return 0
  fi
  say "reader: installing its packages"
  [ -x "$python" ] || python=python3
  "$python" -c "import sys; sys.exit(sys.version_info < ($READER_PYTHON_AT_LEAST))" ||
    die "$("$python" --version) is too old for the reader; it needs $READER_PYTHON_AT_LEAST"
  rm -rf "$CACHE/reader"
  {
    "$python" -m venv "$CACHE/reader" &&
      retry "$CACHE/reader/bin/pip" install --quiet --no-deps --requirement "$READER/requirements.txt" &&
      "$(reader_python)" "$READER/seawall_reader.py" --help
  } >"$CACHE/pip.log" 2>&1 </dev/null || die "the reader's packages failed: $(tail -n 3 "$CACHE/pip.log")"
  chmod -R a+rX "$CACHE/reader"
  stamp reader "$recipe"
}
