package agentless

import (
	"strings"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// The scripts run in any POSIX sh of a Linux system. Beyond POSIX they need
// setsid(1), mkfifo(1), random(4), and dd, head, tail and date as GNU and busybox
// have them.
//
// A directory of ours holds
//
//	agentless        the marker; in it the lease in seconds
//	blobs/DIGEST     staged files
//	claims/ID        made by whoever decides first whether the job begins
//	stage.ID.PID/    what becomes jobs/ID, until it is claimed
//	jobs/ID.log      output of the job, which stays, as does its record ID.json
//	jobs/ID/         the job:
//	  spec           digest, profile, limit in seconds, whether it may be killed
//	  run            process, its start, boot and time, of the job's parent
//	  begun          the program was started
//	  program        process and start of the program
//	  failed         it could not be started, and in a word why
//	  cancel         time at which the job was cancelled
//	  timeout        the limit was enforced
//	  busy           of another job, which had the host: this one was not begun
//	  exit           status and time
//	  json.room, exit.room   what becomes ID.json and exit
//	  work/          the program's directory, until it ends
//	preparing        the process that fills the directory
//	beat, pulse      change with every call; the lease counts from there
//	fresh            nothing was here before
//	janitor          process and start of what removes all this after the lease

// functions are shared by the scripts.
var functions = `
# start PID: prints when a process began: field 22 of proc_pid_stat(5).
start() { s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; (set -f; set -- ${s##*") "}; shift 19 && echo "$1"); }
boot() { cat /proc/sys/kernel/random/boot_id; }
# late FILE: takes back a file that was written, if clear has begun meanwhile and may
# not have seen it.
late() { [ -e "$D/agentless" ] || { rm -f "$1"; rmdir "$D/jobs" "$D"; } 2>/dev/null; }
# beat: where there is no room for the words, whether "pulse" is there tells calls apart.
beat() {
	[ -e "$D/agentless" ] || return 0
	echo "$$ $(date +%s)" >"$D/beat" || if [ -e "$D/pulse" ]; then rm -f "$D/pulse"; else : >"$D/pulse"; fi
	late "$D/beat"
	late "$D/pulse"
} 2>/dev/null
# flush FILE: has a file on the disk before anything that depends on it happens.
flush() { dd if=/dev/null of="$1" conv=notrunc,fsync 2>/dev/null; }
# alive FILE: whether the process that a file names first, with its start, is there.
alive() { { read -r a b c <"$1"; } 2>/dev/null && [ -n "$b" ] && [ "$(start "$a")" = "$b" ]; }
# parent JOB: whether the parent of the job is there, in this boot.
parent() { alive "$1/run" && read -r a b c d <"$1/run" && [ "$c" = "$(boot)" ]; }
# orphan JOB: whether the parent was killed and what it started runs on, in this boot.
orphan() {
	read -r a b c d <"$1/run" && [ "$c" = "$(boot)" ] || return
	# What the program leaves in the background is not it.
	if read -r b c <"$1/program"; then up "$b" "$c"; else kill -0 "-$a"; fi
} 2>/dev/null
# state JOB
state() {
	if [ -s "$1/exit" ]; then echo done
	elif parent "$1"; then if [ -e "$1/begun" ]; then echo running; else echo accepted; fi
	elif [ -s "$1/exit" ]; then echo done
	elif [ -e "$1/begun" ]; then if orphan "$1"; then echo running; else echo interrupted; fi
	elif [ -s "$1/busy" ]; then echo busy
	elif [ -e "$1/failed" ]; then echo failed
	else echo cancelled
	fi
}
# absent ID: ends with 74 if there is no such job, and never will be; with 78 if
# nothing was known here when the directory was filled.
absent() {
	until [ -e "$D/jobs/$1/spec" ] || [ -e "$D/jobs/$1.json" ]; do
		if mkdir "$D/claims/$1" 2>/dev/null; then
			[ -e "$D/fresh" ] && exit 78
			exit 74
		fi
		live=
		for r in "$D/stage.$1."*/run; do if alive "$r"; then live=1; fi; done
		if [ -z "$live" ]; then
			# It was claimed: either it has come into its place meanwhile, or its
			# parent died before it could.
			if [ -e "$D/jobs/$1/spec" ] || [ -e "$D/jobs/$1.json" ]; then return; fi
			exit 74
		fi
		sleep 0.1 2>/dev/null || sleep 1
	done
}
# busy: prints what runs: jobs, and what is about to become one.
busy() {
	for r in "$D"/stage.*/run; do if alive "$r"; then echo "$r"; fi; done
	for j in "$D"/jobs/*/; do
		j=${j%/}
		[ -d "$j" ] || continue
		case $(state "$j") in running|accepted) echo "${j##*/}";; esac
	done
}
# save JOB [EXIT]: writes the record that stays when the job's directory goes. EXIT
# is what is about to be written as that.
save() {
	[ -e "$1/spec" ] || return 0
	i=${1##*/}
	put "$1.json" "$({
		if [ -n "$2" ]; then printf '{"id":"%s","state":"done","exit":"%s"' "$i" "$2"
		else
			printf '{"id":"%s","state":"%s"' "$i" "$(state "$1")"
			if read -r a <"$1/exit"; then printf ',"exit":"%s"' "$a"; fi
		fi
		for f in spec run cancel; do
			if read -r a <"$1/$f"; then printf ',"%s":"%s"' "$f" "$a"; fi
		done
		if [ -s "$1/busy" ]; then printf ',"busy":%s' "$(holder "$1/busy")"; fi
		if read -r a <"$1/failed"; then printf ',"why":"%s"' "$a"; fi
		for f in timeout begun failed cut; do
			if [ -e "$1/$f" ]; then printf ',"%s":true' "$f"; fi
		done
		printf '}\n'
	} 2>/dev/null)" "$1/json.room"
}
# clear: removes everything but logs, unless something runs: then it fails. Whoever
# is about to start a job sees that the marker is gone, or is seen.
clear() {
	{ read -r lease <"$D/agentless"; } 2>/dev/null
	rm -f "$D/agentless"
	n=0
	while alive "$D/preparing" && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1 2>/dev/null || sleep 1; done
	if [ -n "$(busy)" ]; then
		echo "$lease" >"$D/agentless"
		return 1
	fi
	for j in "$D"/jobs/*/; do
		j=${j%/}
		if [ -e "$j/spec" ] && ! [ -e "$j.json" ]; then save "$j" || return 1; fi
	done
	for f in "$D"/* "$D"/.[!.]* "$D"/jobs/* "$D"/jobs/.[!.]*; do
		case ${f#"$D"/} in
		jobs|agent.log) ;;
		jobs/.*) rm -rf "$f";;
		jobs/*.json|jobs/*.log) ;;
		*) rm -rf "$f";;
		esac
	done
	rmdir "$D/jobs" "$D" 2>/dev/null
	hosts >/dev/null
	return 0
}
# hard JOB: kills the process group of the job, but for the parent and what takes
# the output.
hard() {
	read -r g a <"$1/run" || return
	read -r r w <"$1/ours" || return
	for f in /proc/[0-9]*; do
		s=$(cat "$f/stat" 2>/dev/null) || continue
		set -f
		set -- ${s##*") "}
		set +f
		[ "$3" = "$g" ] || continue
		case " $g $r $w " in *" ${f##*/} "*) continue;; esac
		case " $r $w " in *" $2 "*) continue;; esac
		kill -9 "${f##*/}" 2>/dev/null
	done
}
` + hostFunctions + roomFunctions

// prepareScript DIR JANITOR DAYS fills a directory that only its owner may enter. It ends
// with 72 if the directory is somebody else's. A manager may be killed, and what it
// left removed, while this goes on: so it makes neither directory nor marker, and
// either it sees that the marker is gone, or removeScript sees and awaits it. Then it
// removes logs that are older than DAYS, unless that is "".
var prepareScript = functions + pruneFunctions + `
D=$1
umask 077
[ -d "$D" ] && ! [ -L "$D" ] && [ -O "$D" ] || exit 72
case $(LC_ALL=C ls -ldn "$D") in drwx--[-S]---*) ;; *) exit 72;; esac
d=$D
while [ "$d" != / ]; do # nobody else may put another in its place
	d=${d%/*}
	d=${d:-/}
	case $(LC_ALL=C ls -ldnL "$d") in d???????w[!tT]*) exit 72;; d*) ;; *) exit 72;; esac
done
command -v setsid >/dev/null && command -v mkfifo >/dev/null && [ -n "$(start $$)" ] && [ -n "$(boot)" ] || exit 73
echo "$$ $(start $$)" >"$D/preparing" || { [ ! -e "$D/agentless" ] || spare; exit 1; }
[ -e "$D/agentless" ] || { rm -f "$D/preparing"; exit 1; }
if [ -e "$D/beat" ] || [ -e "$D/jobs" ]; then rm -f "$D/fresh"; else : >"$D/fresh"; fi
mkdir -p "$D/blobs" "$D/jobs" "$D/claims" || exit 1
beat
alive "$D/janitor" || {
	setsid sh -c "$2" sh "$D" </dev/null >/dev/null 2>&1 &
}
rm -f "$D/preparing"
[ -z "$3" ] || prune "$3"
`

// janitorScript DIR removes the directory but for its logs when nobody has called
// for as long as the lease is, and no job runs.
var janitorScript = functions + `
D=$1 idle=0 seen=
trap '' HUP
umask 077
cd /
echo "$$ $(start $$)" >"$D/janitor" || exit
late "$D/janitor"
while read -r lease <"$D/agentless"; do
	p=$((lease/10)); [ $p -gt 0 ] || p=1; [ $p -lt 30 ] || p=30
	sleep $p
	now=$(cat "$D/beat" 2>/dev/null; [ -e "$D/pulse" ] && echo pulse)
	if [ "$now" != "$seen" ] || [ -n "$(busy)" ]; then seen=$now idle=0; continue; fi
	idle=$((idle+p))
	[ $idle -ge "$lease" ] || continue
	clear && exit
	idle=0
done
`

// beatScript DIR renews the lease.
var beatScript = functions + `
D=$1
beat
`

// installScript DIR ID PARENT SPEC LIMIT CAP HOLDER EXTRA FILES... -- ARGV... has a
// job started, unless there is one, and prints the specification of the one that is
// there then. It ends with 76, and prints who has it, while another job has the host,
// and with 77 where the disk has no room for the job's files. HOLDER is what others
// are told of this one. EXTRA is put before a command and gives it further variables;
// files are given by name, digest and "x" or "-".
var installScript = functions + `
staged() { while [ "$1" != -- ]; do [ -f "$D/blobs/$2" ] || return 1; shift 3; done; }
D=$1 id=$2 parent=$3 spec=$4 limit=$5 cap=$6 holder=$7 extra=$8
shift 8
j=$D/jobs/$id
beat
if ! [ -e "$j" ] && ! [ -e "$j.json" ] && ! [ -e "$D/claims/$id" ]; then
	staged "$@" || exit 71
	hosts | while IFS= read -r o; do
		w=$(holder "$o")
		if [ "$w" = '{}' ] && ! [ -e "$o" ]; then continue; fi # it has gone meanwhile
		printf '%s\n' "$w" >&2
		exit 76
	done || exit 76
	spare
	path=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	# The values of variables are no arguments of what stays.
	eval "env -i PATH=\"\$path\" HOME=\"\${HOME:-/}\" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive TMPDIR=\"\$j/work\" $extra \\
		setsid sh -c \"\$parent\" sh \"\$D\" \"\$id\" \"\$spec\" \"\$limit\" \"\$cap\" \"\$holder\" \"\$@\" </dev/null >/dev/null 2>&1 &"
	n=0
	until [ -e "$j/spec" ] || [ $n -ge 100 ]; do n=$((n+1)); sleep 0.1 2>/dev/null || sleep 1; done
fi
absent "$id"
if [ -e "$j/spec" ]; then cat "$j/spec"
else sed -n 's/.*"spec":"\([^"]*\)".*/\1/p' "$j.json"
fi
`

// parentScript DIR ID SPEC LIMIT CAP HOLDER FILES... -- PROGRAM [ARGUMENT...] is the parent
// of the job's program, of whose output it keeps CAP blocks of 512 bytes: it leads a
// session of its own, claims the job, lays out its files, and records how the program
// ended.
var parentScript = functions + `
D=$1 id=$2 spec=$3 limit=$4 cap=$5 holder=$6
shift 6
j=$D/jobs/$id log=$D/jobs/$id.log t=$D/stage.$id.$$
trap : HUP INT TERM
umask 077
# fail WHY: says, if there is room, why the program is not started.
fail() { echo "$1" >"$j/failed" || : >"$j/failed"; }
mkdir "$t" || exit
echo "$spec" >"$t/spec" && echo "$$ $(start $$) $(boot) $(date +%s)" >"$t/run" &&
	room "$t/json.room" 4096 && room "$t/exit.room" 4096 || { rm -rf "$t"; exit; }
mkdir "$D/claims/$id" 2>/dev/null || { rm -rf "$t"; exit; }
mv "$t" "$j" || exit
h=${D%/*}/` + agent.HostLockPrefix + `$id.$$.$(start $$).$(boot)$(pidns)
trap 'rm -f "$h"' EXIT
printf '%s,"since":"%s"}\n' "${holder%?}" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$j/host" 2>"$log"
mv "$j/host" "$h" 2>"$log" # whole: whoever sees it can say who has the host
[ -e "$h" ] || { fail host; exit; }
hold "$h" >"$j/busy" || { [ -s "$j/busy" ] || fail host; exit; }
rm -f "$j/busy"
mkdir "$j/work" && : >"$log" && mkfifo "$j/pipe" || { fail work; exit; }
while [ "$1" != -- ]; do
	{
		case $1 in */*) mkdir -p "$j/work/${1%/*}";; esac &&
		cp "$D/blobs/$2" "$j/work/$1" &&
		if [ "$3" = x ]; then chmod 700 "$j/work/$1"; else chmod 600 "$j/work/$1"; fi
	} 2>>"$log" || { fail files; rm -rf "$j/work" "$j/pipe"; exit; }
	shift 3
done
shift
cd "$j/work" || { fail work; exit; }
if [ -e "$j/cancel" ] || ! [ -e "$D/agentless" ]; then exit; fi
: >"$j/begun" && flush "$j/begun" || { rm -f "$j/begun"; fail record; exit; }
(
	trap '' HUP INT TERM XFSZ
	ulimit -f "$cap"
	cat >>"$log" || : >"$j/cut"
	cat >/dev/null
	: >"$j/drained"
) <"$j/pipe" 2>/dev/null &
r=$!
w=
if [ "$limit" != 0 ]; then
	(
		trap '' HUP INT TERM
		n=0
		while [ $n -lt "$limit" ]; do
			[ -e "$j/pipe" ] && kill -0 $$ || exit
			sleep 1
			n=$((n+1))
		done
		[ -e "$j/pipe" ] || exit
		: >"$j/timeout"
		kill -TERM -$$
		n=0
		while [ $n -lt 10 ]; do
			[ -e "$j/pipe" ] || exit
			sleep 1
			n=$((n+1))
		done
		hard "$j"
	) </dev/null >/dev/null 2>&1 &
	w=$!
fi
echo "$r $w" >"$j/ours"
# The program puts itself on record, before it is that: then it alone holds the host.
(trap - HUP INT TERM; umask 022; exec sh -c '
	start() (read -r s <"/proc/$$/stat"; set -f; set -- ${s##*") "}; shift 19; echo "$1")
	b=$(start)
	{ echo "program $$ $b" >>"$1"; echo "$$ $b" >"$2"; } 2>/dev/null
	shift 2
	exec "$@"' sh "$h" "$j/program" "$@") </dev/null >"$j/pipe" 2>&1
s="$? $(date +%s)"
rm -f "$j/pipe" # it has ended, and to say so has taken no room
# What the program left running in the background may hold the pipe.
n=0
while ! [ -e "$j/drained" ] && [ $n -lt 30 ]; do sleep 0.1 2>/dev/null || sleep 1; n=$((n+1)); done
rm -f "$h"
# later waits for room, as long as there is something to record the end in, and not
# where the file system became read-only.
later() { [ -e "$j/spec" ] && [ -w "$D/jobs" ] || exit; rm -rf "$j/work"; sleep 2; }
until save "$j" "$s"; do later; done
until put "$j/exit" "$s" "$j/exit.room"; do later; done
cd /
rm -rf "$j/work" "$j"/*.room
`

// statusScript DIR OFFSET MAX [ID] prints what is known of a job, or of all, and of
// one the log from OFFSET (from 1) on: lines of a word and values, then an empty
// line; or of a job whose directory has gone "record" and the line that save wrote.
var statusScript = functions + `
D=$1 off=$2 max=$3 id=$4
beat
one() {
	echo "id ${1##*/}"
	echo "state $(state "$1")"
	for f in spec run exit cancel; do
		if read -r a <"$1/$f"; then echo "$f $a"; fi
	done 2>/dev/null
	[ -s "$1/busy" ] && echo "busy $(holder "$1/busy")"
	[ -e "$1/timeout" ] && echo timeout
	[ -e "$1/begun" ] && echo begun
	[ -e "$1/failed" ] && echo "failed $(cat "$1/failed")"
	[ -e "$1/cut" ] && echo cut
	echo "now $(date +%s)"
	echo
}
# record FILE: in one line, whatever the file holds.
record() { l=$(head -n 1 "$1" | head -c 65536); printf 'record\n%s\n' "$l"; }
if [ -z "$id" ]; then
	for j in "$D"/jobs/*/; do
		j=${j%/}
		[ -e "$j/spec" ] && one "$j"
	done
	for j in "$D"/jobs/*.json; do
		[ -e "${j%.json}/spec" ] || ! [ -e "$j" ] || record "$j"
	done
	exit 0
fi
j=$D/jobs/$id
absent "$id"
if [ -e "$j/spec" ]; then one "$j"
else record "$j.json"
fi
[ -e "$j.log" ] && tail -c "+$off" "$j.log" | head -c "$max"
exit 0
`

// cancelScript DIR ID asks a job to end: one that has not begun never will.
var cancelScript = functions + `
D=$1 id=$2
j=$D/jobs/$id
beat
umask 077
absent "$id"
[ -e "$j/spec" ] || exit 0
[ -e "$j/cancel" ] || date +%s >"$j/cancel"
n=0
while ! [ -e "$j/begun" ] && parent "$j" && [ $n -lt 50 ]; do n=$((n+1)); sleep 0.1 2>/dev/null || sleep 1; done
[ "$(state "$j")" = running ] || exit 0
read -r a b c kill <"$j/spec"
[ "$kill" = kill ] || exit 0
read -r g a <"$j/run"
read -r since <"$j/cancel"
kill -TERM "-$g" 2>/dev/null
[ $(($(date +%s)-since)) -gt 10 ] && hard "$j"
exit 0
`

// removeScript DIR removes everything but logs. It ends with 75 while a job runs.
var removeScript = functions + `
D=$1
[ -d "$D" ] || exit 0
[ -z "$(busy)" ] || exit 75
g=
if alive "$D/janitor"; then read -r g b <"$D/janitor"; fi
clear || exit 75
[ -z "$g" ] || kill -9 "-$g" 2>/dev/null || kill -9 "$g" 2>/dev/null
exit 0
`

// compact leaves out comments and indentation: scripts are arguments, which have
// their limits.
func compact(script string) string {
	var b strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimLeft(line, "\t")
		if line != "\n" && !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
