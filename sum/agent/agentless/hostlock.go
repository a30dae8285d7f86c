package agentless

import (
	"bytes"
	"encoding/json"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// hostFunctions hold the host for one job's program at a time, by the files of
// package agent (see its hostlock.go) in the directory above D: with what a POSIX
// shell can tell of a holder, as flock(1) is not everywhere.
const hostFunctions = `
# up PID START: whether a process runs, and is no zombie.
up() (
	s=$(cat "/proc/$1/stat" 2>/dev/null) || exit 1
	w=$2
	set -f
	set -- ${s##*") "}
	case $1 in [ZX]) exit 1;; esac
	shift 19 && [ "$1" = "$w" ]
)
# hostlive FILE JOB PID START BOOT: whether a job holds the host by a file of that
# name: its process runs; or the program that this has started does, or its process
# group, or until that is on record a process that has inherited the file.
hostlive() (
	[ "$5" = "$(boot)" ] || exit 1
	up "$3" "$4" && exit 0
	group= program= began=
	while read -r a b c; do
		case "$a $b" in
		"held group") group=1;;
		"program "*) program=$b began=$c;;
		esac
	done <"$1" 2>/dev/null
	if [ -n "$program" ]; then up "$program" "$began"
	elif [ -n "$group" ]; then
		s=$(start "$3") # another process has the number if it began at another time
		[ "${s:-$4}" = "$4" ] && kill -0 "-$3" 2>/dev/null
	else ls -l /proc/[0-9]*/fd 2>/dev/null | grep -qF -- " -> $1"
	fi
)
# hosts MINE: prints the files by which other jobs than that of MINE hold the host,
# and deletes those of the dead.
hosts() (
	B=$(cd "${D%/*}/" && pwd -P) || exit 1
	for f in "${B%/}"/` + agent.HostLockPrefix + `*; do
		[ -f "$f" ] && ! [ -L "$f" ] && [ "${f##*/}" != "${1##*/}" ] || continue
		n=${f##*/` + agent.HostLockPrefix + `}
		IFS=.
		set -f
		set -- "$1" $n
		set +f
		unset IFS
		[ $# = 5 ] && [ ${#2} = 32 ] || continue
		case $2.$3 in *[!0-9a-f.]*|*.*[!0-9]*|*.) continue;; esac
		[ -n "$4" ] || continue
		if hostlive "$f" "$2" "$3" "$4" "$5"; then echo "$f"
		else rm -f "$f"
		fi
	done
)
# holder FILE: prints what is said of the job of a file, as JSON.
holder() (
	if read -r a <"$1"; then case $a in {*}) printf '%s\n' "$a"; exit;; esac; fi 2>/dev/null
	echo '{}'
)
# hold FILE: waits until the job of FILE holds the host, or prints who does and fails.
# Of two that come at the same time the one whose name sorts last withdraws.
hold() (
	n=0
	while o=$(hosts "$1") || exit 1; [ -n "$o" ]; do
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
	echo "held group" >>"$1"
)
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
