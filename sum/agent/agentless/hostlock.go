package agentless

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// hostFunctions hold the host for one job's program at a time, by the files of
// package agent (see its hostlock.go) in the directory above D: with what a POSIX
// shell can tell of a holder, as flock(1) is not everywhere.
var hostFunctions = `
# up PID START: whether a process may run, and is no zombie.
up() (
	s=$(cat "/proc/$1/stat" 2>/dev/null) || { kill -0 "$1" 2>/dev/null; exit; }
	w=$2
	set -f
	set -- ${s##*") "}
	case $1 in [ZX]) exit 1;; esac
	shift 19 && [ "$1" = "$w" ]
)
# pidns: prints this PID namespace as a name ends with it.
pidns() {
	n=$(LC_ALL=C ls -l /proc/self/ns/pid 2>/dev/null)
	n=${n##*"["}
	n=${n%"]"}
	case $n in ""|*[!0-9]*) ;; *) echo ".$n";; esac
}
# pending ASKED DUE: whether a restart that was asked for may still come.
pending() (
	case $1$2 in ""|*[!0-9]*) exit 1;; esac
	now=$(date +%s)
	[ "$now" -le $(($2+600)) ] || exit 1
	if [ "$now" -lt "$2" ] && [ "$now" -gt $(($1+60)) ] && [ -e /run/systemd/system ]; then [ -e /run/systemd/shutdown/scheduled ]; fi
)
# hostlive FILE JOB PID START BOOT NS: whether the host is held by a file of that name:
# its process runs; or the program that this has started does, or until that is on
# record its process group or a process that has inherited the file. It ends with 1
# where that was found out to be dead, and with 2 where it is no business of this host.
hostlive() (
	this=$(boot) && [ -n "$this" ] || exit 0
	[ "$5" = "$this" ] || exit 1
	group= program= began= asked= due= foreign=
	[ -z "$6" ] || [ ".$6" = "$(pidns)" ] || foreign=1
	while read -r a b c; do
		case "$a $b" in
		"held group") group=1;;
		"program "*) program=$b began=$c;;
		"restart "*) asked=$b due=$c;;
		esac
	done 2>/dev/null <"$1"
	[ -e "$1" ] || exit 1 # it went while this looked
	if [ -n "$asked" ]; then
		[ -z "$foreign" ] || exit 2
		[ "$3.$4" = 1.0 ] || up "$3" "$4" || exit 1
		pending "$asked" "$due" || exit 1
		exit 0
	fi
	if [ -n "$foreign" ]; then
		[ -z "$group" ] && command -v flock >/dev/null && flock -s -n "$1" true && exit 1
		exit 0
	fi
	up "$3" "$4" && exit 0
	if [ -n "$program" ]; then up "$program" "$began" || exit 1
	elif [ -n "$group" ]; then
		s=$(start "$3") # another process has the number if it began at another time
		[ "${s:-$4}" = "$4" ] && kill -0 "-$3" 2>/dev/null || exit 1
	else ls -l /proc/[0-9]*/fd 2>/dev/null | grep -qF -- " -> $1" || exit 1
	fi
	exit 0
)
# hosts MINE RESTART: prints the files other than MINE by which the host is held, with
# RESTART but for those of restarts, and deletes those of the dead. It looks into the
# directory above D, and where that is a default one, into the others too.
hosts() (
	mine=${1##*/} restart=$2
	B=$(cd "${D%/*}/" && pwd -P) || exit 1
	among= others= bad=
	for d in ` + strings.Join(agent.DefaultBaseDirs(true, ""), " ") + `; do
		[ -d "$d" ] || continue
		if p=$(cd "$d/" 2>/dev/null && pwd -P); then
			if [ "$p" = "$B" ]; then among=1; else others="$others $d"; fi
		elif [ "$(id -u)" = 0 ]; then bad=1
		fi
	done
	[ -n "$among" ] || others= bad=
	[ -z "$bad" ] || exit 1
	for B in "$B" $others; do
		ls "$B/" >/dev/null 2>&1 || exit 1
		for f in "${B%/}"/` + agent.HostLockPrefix + `*; do
			[ -f "$f" ] && ! [ -L "$f" ] && [ -O "$f" ] && [ "${f##*/}" != "$mine" ] || continue
			n=${f##*/` + agent.HostLockPrefix + `}
			IFS=.
			set -f
			set -- $n
			set +f
			unset IFS
			case $# in 4) ;; 5) case $5 in ""|*[!0-9]*) continue;; esac;; *) continue;; esac
			[ ${#1} = 32 ] || continue
			case $1.$2 in *[!0-9a-f.]*|*.*[!0-9]*|*.) continue;; esac
			[ -n "$3" ] || continue
			hostlive "$f" "$@"
			case $? in
			0) [ -n "$restart" ] && grep -q '^restart ' "$f" 2>/dev/null || echo "$f";;
			1) rm -f "$f";;
			esac
		done
	done
	exit 0
)
# holder FILE: prints what is said of the job of a file, as JSON.
holder() (
	if read -r a <"$1"; then case $a in {*}) printf '%s\n' "$a"; exit;; esac; fi 2>/dev/null
	echo '{}'
)
# hold FILE RESTART: waits until FILE holds the host, or prints who does and fails.
# Of two that come at the same time the one whose name sorts last withdraws.
hold() (
	n=0
	while o=$(hosts "$1" "$2") || exit 1; [ -n "$o" ]; do
		printf '%s\n' "$o" | while IFS= read -r x; do
			if [ $n -ge 50 ] || grep -q '^held' "$x" 2>/dev/null ||
				[ "$(printf '%s\n' "${x##*/}" "${1##*/}" | LC_ALL=C sort | head -n 1)" = "${x##*/}" ]; then
				w=$(holder "$x")
				if [ "$w" = '{}' ] && ! [ -e "$x" ]; then continue; fi # it has withdrawn itself
				printf '%s\n' "$w"
				exit 1
			fi
		done || exit 1
		n=$((n+1))
		sleep 0.1 2>/dev/null || sleep 1
	done
	if [ -n "$2" ]; then echo held >>"$1"; else echo "held group" >>"$1"; fi
)
# asked FILE: prints when the restart of a file was asked for.
asked() { sed -n 's/^restart \([0-9]\{1,\}\) .*/\1/p' "$1" 2>/dev/null | head -n 1; }
# latest NOW: prints NOW, or a second after the last restart that was asked for in
# the minute after: so of those that are asked one after the other, also within the
# same second, each is later than the one before.
latest() {
	hosts "" | {
		n=$1
		while IFS= read -r x; do
			a=$(asked "$x")
			if [ -n "$a" ] && [ "$a" -ge "$n" ] && [ "$a" -lt $(($1+60)) ]; then n=$((a+1)); fi
		done
		echo "$n"
	}
}
# supersede FILE ASKED: deletes the files of restarts that were asked for before that of
# FILE. Of two at the same time none deletes the other's and has its own deleted.
supersede() (
	hosts "$1" | while IFS= read -r x; do
		a=$(asked "$x")
		[ -n "$a" ] && [ "$a" -le "$2" ] || continue
		if [ "$a" -lt "$2" ] || [ "$(printf '%s\n' "${x##*/}" "${1##*/}" | LC_ALL=C sort | head -n 1)" = "${x##*/}" ]; then rm -f "$x"; fi
	done
)
`

// rebootScript DIR ID HOLDER DELAY COMMAND... runs the command that has the host
// restart in DELAY seconds, unless a job runs: 75, or 76 where it is another's. Where
// the command fails it ends with 81 for root, who may, and with 80 for others. From
// then on no job begins; see agent.HostHolder.
var rebootScript = functions + `
D=$1 id=$2 holder=$3 delay=$4
shift 4
trap '' HUP
PATH=$PATH:/usr/sbin:/sbin
beat
umask 077
b=$(busy | head -n 1)
if [ -n "$b" ]; then echo "job $b" >&2; exit 75; fi
command -v "$1" >/dev/null || exit 79
now=$(date +%s) this=$(boot)
[ -n "$this" ] || exit 73
due=$((now+delay)) first=$(start 1)
now=$(latest "$now")
h=${D%/*}/` + agent.HostLockPrefix + `$id.1.${first:-0}.$this$(pidns)
when=$(date -u -d "@$due" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null) && when=',"restart":"'$when'"'
printf '%s,"since":"%s"%s}\nrestart %s %s\n' "${holder%?}" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$when" "$now" "$due" >"$h.new" &&
	grep -q '^restart ' "$h.new" && mv "$h.new" "$h" || { rm -f "$h.new"; exit 77; }
w=$(hold "$h" restart) || {
	rm -f "$h"
	[ -n "$w" ] || exit 1
	printf '%s\n' "$w" >&2
	exit 76
}
"$@" </dev/null >&2 || { rm -f "$h"; [ "$(id -u)" != 0 ] || exit 81; exit 80; }
supersede "$h" "$now"
exit 0
`

// holderOf is what a job says of itself to others, in which the script puts the time.
func (c *commands) holderOf(job agent.Job) string {
	b, _ := json.Marshal(agent.HostHolder{Agent: c.place.ID, Job: job.ID, Component: job.Component, Version: job.Version, Target: c.target})
	return string(b) // strings alone
}

// hostBusy is the error of a job that another one keeps out. out is what the script
// said, of which a line names the other.
func (c *commands) hostBusy(op string, out []byte) error {
	var by agent.HostHolder
	for line := range bytes.Lines(out) {
		if line[0] == '{' {
			_ = json.Unmarshal(line, &by)
		}
	}
	return agent.HostBusyError(op, c.target, by)
}
