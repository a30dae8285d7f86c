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
	exitQuota     = 81 // nothing can be written though the file system has room
)

// exitError turns the exit status of a script into an error.
func (k *call) exitError(exit transport.Exit, stderr string) error {
	e := &transport.Error{Op: k.op, Target: k.c.target, Path: k.path, Code: exitCode(exit)}
	if text := strings.TrimSpace(stderr); text != "" {
		e.Err = fmt.Errorf("%q", text)
	}
	switch exit.Code {
	case exitPerm, exitOther, exitNotExist:
		if longName(k.path) {
			e.Kind, e.Hint = transport.ErrRejected, longHint
			return e
		}
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
	case exitQuota:
		e.Kind, e.Hint = transport.ErrNoSpace, "the file system has room: a quota or another limit of this user leaves none"
	case exitIntegrity:
		e.Kind = transport.ErrIntegrity
	case exitNotEmpty:
		e.Kind, e.Hint = fs.ErrExist, "the directory is not empty"
	case exitNotDir:
		e.Kind, e.Hint = transport.ErrRejected, "not a directory"
	case exitNoHash:
		e.Kind = errors.ErrUnsupported
	case 126, 127:
		e.Kind, e.Hint = errors.ErrUnsupported, "a tool of POSIX is missing on the target, or not in the PATH of the login shell"
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
	[ -L "$d" ] && ! [ -e "$d" ] && exit 71 # it leads nowhere, or in a circle
	[ "$d" = "$1" ] && exit 72
	[ -d "$d" ] || exit 71
	[ -x "$d" ] || exit 72
	exit 71
}
# left ARG...: prints what df says is free. It stands before the first percent sign;
# there may be blanks in the names before and behind.
left() {
	df "$@" 2>/dev/null | {
		read -r a
		read -r a
		b=
		for a in $a; do
			case $a in [0-9]*%) echo "$b"; break;; esac
			b=$a
		done
	}
}
# full DIR KIB: exits with 74 if DIR has less room than KIB, or no more inodes.
full() {
	a=$(left -Pk "$1")
	case $a in ''|*[!0-9]*) ;; *) [ "$a" -lt "$2" ] && exit 74;; esac
	[ "$(left -Pi "$1")" = 0 ] && exit 74
}
# reads DIR: exits with 72 if the file system of DIR is mounted for reading alone.
# What [ -w ] says of that differs, for root at least.
reads() {
	[ -r /proc/mounts ] || return 0
	m=$(df -P "$1" 2>/dev/null | { read -r a; read -r a; echo "${a##*% }"; })
	a=
	while read -r b c b o b; do [ "$c" = "$m" ] && a=$o; done </proc/mounts
	case ,$a, in *,ro,*) exit 72;; esac
}
size() {
	stat -c %s "$1" 2>/dev/null || { v=$(wc -c <"$1") && echo "$((v))"; }
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
	reads "$p"
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
p=${1%/*}; p=${p:-/}
[ -w "$p" ] && [ -x "$p" ] || exit 72
reads "$p"
[ -k "$p" ] && ! [ -O "$p" ] && ! [ -O "$1" ] && exit 72 # as in /tmp
exit 80
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

// killScript PID... ends the process groups that these lead, or else these and what
// they started: gently, then not.
const killScript = `
# family PID: adds to t this process and those that it started, as far as ps tells.
family() {
	f=" $1 " n=
	while [ "$f" != "$n" ]; do
		n=$f
		set -- $all
		while [ $# -gt 1 ]; do
			case "$f" in *" $1 "*) ;; *" $2 "*) f="$f$1 ";; esac
			shift 2
		done
	done
	t="$t$f"
}
signal() {
	r=1
	for x in $t; do kill -"$1" "$x" 2>/dev/null && r=0; done
	return $r
}
t= all=
for p; do
	if kill -0 -"$p" 2>/dev/null; then t="$t -$p"
	else
		[ -n "$all" ] || all=$(ps -A -o pid= -o ppid= 2>/dev/null || ps -o pid,ppid 2>/dev/null)
		family "$p"
	fi
done
signal TERM || exit 0
i=0
while signal 0 && [ $i -lt 20 ]; do i=$((i+1)); sleep 0.1 2>/dev/null || sleep 1; done
signal KILL
exit 0
`
