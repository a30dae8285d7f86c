package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// The scripts run in any POSIX sh and call POSIX tools; what goes beyond POSIX
// (stat, find -printf, sha256sum) has a fallback. They say how they failed by
// their exit status, so that nothing depends on the language of messages.
const (
	exitNotExist  = 71
	exitPerm      = 72
	exitExist     = 73 // something else stands there
	exitNoSpace   = 74
	exitIntegrity = 75
	exitShort     = 76 // the input ended early
	exitNoHash    = 77 // there is no tool for SHA-256
	exitNotEmpty  = 78
	exitNotDir    = 79
	exitOther     = 80 // the tool's own words are on standard error
)

// exitError turns the exit status of a script into an error.
func (k *call) exitError(exit transport.Exit, stderr string) error {
	e := &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Code: exitCode(exit)}
	if text := strings.TrimSpace(stderr); text != "" {
		e.Err = fmt.Errorf("%q", text)
	}
	switch exit.Code {
	case exitNotExist:
		e.Kind = fs.ErrNotExist
	case exitPerm:
		e.Kind = fs.ErrPermission
	case exitExist:
		e.Kind, e.Hint = fs.ErrExist, "something of another kind has this name"
	case exitNoSpace:
		e.Kind = transport.ErrNoSpace
	case exitIntegrity:
		e.Kind = transport.ErrIntegrity
	case exitNotEmpty:
		e.Kind, e.Hint = fs.ErrExist, "the directory is not empty"
	case exitNotDir:
		e.Kind, e.Hint = transport.ErrRejected, "not a directory"
	case exitNoHash:
		e.Kind = errors.ErrUnsupported
	default:
		e.Kind = transport.ErrRejected
	}
	return e
}

// Functions that scripts share.
const shared = `
# why PATH: exits with the reason why PATH cannot be used.
why() {
	d=$1
	while [ "$d" != / ] && ! [ -e "$d" ] && ! [ -L "$d" ]; do d=${d%/*}; [ -n "$d" ] || d=/; done
	[ "$d" = "$1" ] && exit 72
	[ -d "$d" ] || exit 71
	[ -x "$d" ] || exit 72
	exit 71
}
# full DIR KIB: exits with 74 if DIR has less room than KIB, or no more inodes.
full() {
	a=$(df -Pk "$1" 2>/dev/null | { read -r a; read -r a a a a b; echo "$a"; })
	case $a in ''|*[!0-9]*) ;; *) [ "$a" -lt "$2" ] && exit 74;; esac
	a=$(df -Pi "$1" 2>/dev/null | { read -r a; read -r a t b a b; echo "$t:$a"; })
	case $a in 0:*) ;; *:0) exit 74;; esac
}
size() {
	stat -c %s "$1" 2>/dev/null || wc -c <"$1" | tr -d ' '
}
# hash PATH: prints the SHA-256 of a file.
hash() {
	if command -v sha256sum >/dev/null; then a=$(sha256sum <"$1")
	elif command -v shasum >/dev/null; then a=$(shasum -a 256 <"$1")
	elif command -v openssl >/dev/null; then a=$(openssl dgst -sha256 -r <"$1")
	elif command -v sha256 >/dev/null; then a=$(sha256 -q <"$1")
	elif command -v digest >/dev/null; then a=$(digest -a sha256 <"$1")
	else return 77
	fi || return 80
	echo "${a%% *}"
}
# rec PATH NAME: prints what is known about PATH, then NAME and a NUL byte.
rec() {
	if v=$(stat -c '%f %s %Y' "$1" 2>/dev/null) || v=$(stat -f '%Xp %z %m' "$1" 2>/dev/null); then v="x $v"
	else v=$(LC_ALL=C ls -ldn "$1" | { read -r a b b b s b; echo "l $a $s 0"; })
	fi
	printf '%s %s\0' "$v" "$2"
}
`

// statScript PATH NAME prints one record.
const statScript = shared + `
[ -e "$1" ] || [ -L "$1" ] || why "$1"
rec "$1" "$2"
`

// listScript DIR prints a record for each entry, and "e" when there are no more.
const listScript = shared + `
[ -d "$1" ] || { [ -e "$1" ] && exit 79; why "$1"; }
cd "$1" 2>/dev/null && [ -r . ] || exit 72
if find / -prune -printf '' >/dev/null 2>&1; then
	find . ! -name . -prune -printf 'f %y%m %s %T@ %f\0' 2>/dev/null
	[ $? -le 1 ] || exit 80
else
	for e in .* *; do
		case $e in .|..) continue;; esac
		[ -e "./$e" ] || [ -L "./$e" ] || continue
		rec "./$e" "$e"
	done
fi
printf 'e\0'
`

// mkdirScript DIR MODE makes a directory and those above it.
const mkdirScript = shared + `
m=$2; d=$1; set --
while ! [ -d "$d" ]; do
	if [ -e "$d" ] || [ -L "$d" ]; then [ $# = 0 ] && exit 73; exit 79; fi
	set -- "$d" "$@"
	d=${d%/*}; [ -n "$d" ] || d=/
done
umask 077
made=
for x; do
	mkdir "$x" && continue
	[ -d "$x" ] && continue
	p=${x%/*}; p=${p:-/}
	[ -w "$p" ] && [ -x "$p" ] || exit 72
	full "$p" 4
	exit 80
done
# From below, so that a mode without access does not get in the way.
while [ $# -gt 0 ]; do
	eval "x=\${$#}"
	chmod "$m" "$x" || exit 72
	n=$#; i=1
	while [ $i -lt $n ]; do set -- "$@" "$1"; shift; i=$((i+1)); done
	shift
done
`

// removeScript PATH removes a file or an empty directory.
const removeScript = shared + `
[ -e "$1" ] || [ -L "$1" ] || why "$1"
if [ -d "$1" ] && ! [ -L "$1" ]; then
	rmdir "$1" && exit
	[ -n "$(ls -A "$1" 2>/dev/null)" ] && exit 78
else
	rm -f "$1" && exit
fi
exit 72
`

// getScript PATH FROM COUNT prints a file from byte FROM (from 1) on, and COUNT
// bytes of it unless COUNT is 0.
const getScript = shared + `
[ -e "$1" ] || why "$1"
[ -d "$1" ] && exit 73
[ -r "$1" ] || exit 72
if [ "$2" = 1 ] && [ "$3" = 0 ]; then exec cat <"$1"
elif [ "$3" = 0 ]; then exec tail -c "+$2" <"$1"
elif [ "$2" = 1 ]; then exec head -c "$3" <"$1"
else tail -c "+$2" <"$1" | head -c "$3"
fi
`

// putScript FILE PARTIAL SIZE SHA256 DIR MODE takes over a file. First it says on
// a line of its own "done" if FILE is there already, or "at OFFSET". Then it takes
// the bytes from OFFSET on, checks all and prints a record of FILE. Writing at an
// offset, and not at the end, keeps a predecessor harmless whose line broke but
// who still has some of the same bytes to write.
const putScript = shared + `
f=$1 p=$2 n=$3 h=$4 d=$5 m=$6
[ -d "$d" ] || { [ -e "$d" ] && exit 71; why "$d"; }
[ -d "$f" ] && exit 73
# Others could change their own file later, so it is replaced, as a link is.
ready() {
	[ -f "$f" ] && ! [ -L "$f" ] && [ -O "$f" ] && [ -r "$f" ] && [ "$(size "$f")" = "$n" ] && [ "$(hash "$f")" = "$h" ] && chmod "$m" "$f"
}
if ready 2>/dev/null; then rm -f "$p"; echo done; rec "$f" x; exit 0; fi
s=0
if [ -e "$p" ] || [ -L "$p" ]; then
	# Nothing but a plain file of our own is continued: others could change it later.
	if [ -f "$p" ] && ! [ -L "$p" ] && [ -O "$p" ] && [ -w "$p" ] && s=$(size "$p") && [ "$s" -le "$n" ]; then :
	else rm -f "$p" || exit 72; s=0
	fi
fi
if ! [ -e "$p" ]; then
	(umask 077; set -C; : >"$p") || {
		[ -w "$d" ] && [ -x "$d" ] || exit 72
		full "$d" 4
		exit 80
	}
fi
k=$((s/65536))
echo "at $((k*65536))"
LC_ALL=C dd of="$p" bs=65536 seek="$k" conv=notrunc || {
	full "$d" "$(((n-k*65536)/1024+4))"
	s=$(size "$p")
	full "$d" "$(((n-s)/1024+4))"
	exit 80
}
s=$(size "$p")
[ "$s" = "$n" ] || exit 76
x=$(hash "$p")
r=$?
if [ $r != 0 ]; then
	ready && { echo done; rec "$f" x; exit 0; }
	exit $r
fi
[ "$x" = "$h" ] || { rm -f "$p"; exit 75; }
` + finish

// finishScript FILE PARTIAL MODE is the end of putScript, for targets without a
// tool for SHA-256, whose file was read back.
const finishScript = shared + `
f=$1 p=$2 m=$3
` + finish

const finish = `
chmod "$m" "$p" || exit 72
[ -d "$f" ] && exit 73
mv -f "$p" "$f" || exit 72
rec "$f" x
`

// killScript PID ends the process group that PID leads: gently, then not.
const killScript = `
alive() { kill -0 -"$1" 2>/dev/null || kill -0 "$1" 2>/dev/null; }
kill -TERM -"$1" 2>/dev/null || kill -TERM "$1" 2>/dev/null || exit 0
i=0
while alive "$1" && [ $i -lt 20 ]; do i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1; done
kill -KILL -"$1" 2>/dev/null || kill -KILL "$1" 2>/dev/null
exit 0
`
