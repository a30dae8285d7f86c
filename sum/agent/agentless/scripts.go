package agentless

import "strings"

// The scripts run in any POSIX sh of a Linux system. Beyond POSIX they need
// setsid(1), mkfifo(1), and head, tail and date as GNU and busybox have them.
//
// A directory of ours holds
//
//	agentless        the marker; in it the lease in seconds
//	blobs/DIGEST     staged files
//	claims/ID        made by whoever decides first whether the job begins
//	jobs/ID.log      output of the job, which stays, as does its record ID.json
//	jobs/ID/         the job, moved there when it is claimed:
//	  spec           digest, profile, limit in seconds, whether it may be killed
//	  run            process, its start, boot and time, of the job's parent
//	  begun          the program was started
//	  cancel         time at which the job was cancelled
//	  timeout        the limit was enforced
//	  exit           status and time
//	  work/          the program's directory, until it ends
//	preparing      the process that fills the directory
//	beat             changes with every call; the lease counts from there
//	janitor          process and start of what removes all this after the lease

// functions are shared by the scripts.
const functions = `
# start PID: prints when a process began: field 22 of proc_pid_stat(5).
start() { s=$(cat "/proc/$1/stat" 2>/dev/null) || return 1; (set -f; set -- ${s##*") "}; shift 19 && echo "$1"); }
boot() { cat /proc/sys/kernel/random/boot_id; }
beat() { echo "$$ $(date +%s)" >"$D/beat" 2>/dev/null; }
# alive FILE: whether the process that a file names first, with its start, is there.
alive() { read -r a b c <"$1" 2>/dev/null && [ -n "$b" ] && [ "$(start "$a")" = "$b" ]; }
# parent JOB: whether the parent of the job is there, in this boot.
parent() { alive "$1/run" && read -r a b c d <"$1/run" && [ "$c" = "$(boot)" ]; }
# state JOB
state() {
	if [ -e "$1/exit" ]; then echo done
	elif parent "$1"; then if [ -e "$1/begun" ]; then echo running; else echo accepted; fi
	elif [ -e "$1/exit" ]; then echo done
	elif [ -e "$1/begun" ]; then echo interrupted
	else echo cancelled
	fi
}
# busy: prints the jobs that run.
busy() {
	for j in "$D"/jobs/*/; do
		j=${j%/}
		[ -d "$j" ] || continue
		case $(state "$j") in running|accepted) echo "${j##*/}";; esac
	done
}
# save JOB: writes the record that stays when the job's directory goes.
save() {
	i=${1##*/}
	{
		printf '{"id":"%s","state":"%s"' "$i" "$(state "$1")"
		for f in spec run exit cancel; do
			if read -r a <"$1/$f"; then printf ',"%s":"%s"' "$f" "$a"; fi
		done 2>/dev/null
		for f in timeout begun cut; do
			if [ -e "$1/$f" ]; then printf ',"%s":true' "$f"; fi
		done
		printf '}\n'
	} >"$1.json.new" && mv "$1.json.new" "$1.json"
}
# clear: removes everything but logs.
clear() {
	for j in "$D"/jobs/*/; do
		j=${j%/}
		if [ -e "$j/spec" ]; then save "$j"; fi
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
`

// prepareScript DIR JANITOR fills a directory that only its owner may enter. It ends
// with 72 if the directory is somebody else's. A manager may be killed, and what it
// left removed, while this goes on: so it makes neither directory nor marker, and
// either it sees that the marker is gone, or removeScript sees and awaits it.
const prepareScript = functions + `
D=$1
umask 077
[ -d "$D" ] && ! [ -L "$D" ] && [ -O "$D" ] || exit 72
case $(LC_ALL=C ls -ldn "$D") in drwx------*) ;; *) exit 72;; esac
d=$D
while [ "$d" != / ]; do # nobody else may put another in its place
	d=${d%/*}
	d=${d:-/}
	case $(LC_ALL=C ls -ldnL "$d") in d???????w[!tT]*) exit 72;; d*) ;; *) exit 72;; esac
done
command -v setsid >/dev/null && command -v mkfifo >/dev/null || exit 73
echo "$$ $(start $$)" >"$D/preparing" || exit 1
[ -e "$D/agentless" ] || { rm -f "$D/preparing"; exit 1; }
mkdir -p "$D/blobs" "$D/jobs" "$D/claims" || exit 1
beat
alive "$D/janitor" || {
	setsid sh -c "$2" sh "$D" </dev/null >/dev/null 2>&1 &
}
rm -f "$D/preparing"
`

// janitorScript DIR removes the directory but for its logs when nobody has called
// for as long as the lease is, and no job runs.
const janitorScript = functions + `
D=$1 idle=0 seen=
trap '' HUP
umask 077
echo "$$ $(start $$)" >"$D/janitor"
cd /
while read -r lease <"$D/agentless"; do
	p=$((lease/10)); [ $p -gt 0 ] || p=1; [ $p -lt 30 ] || p=30
	sleep $p
	now=$(cat "$D/beat" 2>/dev/null)
	if [ "$now" != "$seen" ] || [ -n "$(busy)" ]; then seen=$now idle=0; continue; fi
	idle=$((idle+p))
	[ $idle -ge "$lease" ] || continue
	clear
	exit
done
`

// beatScript DIR renews the lease.
const beatScript = functions + `
D=$1
beat
`

// installScript DIR ID PARENT SPEC LIMIT CAP EXTRA FILES... -- ARGV... starts a job,
// unless there is one, and prints the specification of the one that is there then.
// EXTRA is put before a command and gives it further variables; files are given by
// name, digest and "x" or "-".
const installScript = functions + `
D=$1 id=$2 parent=$3 spec=$4 limit=$5 cap=$6 extra=$7
shift 7
j=$D/jobs/$id
beat
if ! [ -e "$j" ] && ! [ -e "$j.json" ] && ! [ -e "$D/claims/$id" ]; then
	umask 077
	t=$D/stage.$$
	rm -rf "$t"
	mkdir -p "$t/work" || exit 1
	echo "$spec" >"$t/spec" || exit 1
	while [ "$1" != -- ]; do
		case $1 in */*) mkdir -p "$t/work/${1%/*}" || exit 1;; esac
		[ -f "$D/blobs/$2" ] || { rm -rf "$t"; exit 71; }
		cp "$D/blobs/$2" "$t/work/$1" || { rm -rf "$t"; exit 1; }
		if [ "$3" = x ]; then chmod 700 "$t/work/$1"; else chmod 600 "$t/work/$1"; fi
		shift 3
	done
	shift
	path=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
	# The values of variables are no arguments of what stays.
	eval "env -i PATH=\"\$path\" HOME=\"\${HOME:-/}\" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive TMPDIR=\"\$j/work\" $extra \\
		setsid sh -c \"\$parent\" sh \"\$D\" \"\$id\" \"\$t\" \"\$limit\" \"\$cap\" \"\$@\" </dev/null >/dev/null 2>&1 &"
	n=0
	while [ $n -lt 100 ]; do
		[ -e "$j/begun" ] || [ -e "$j/exit" ] && break
		[ -e "$t" ] || [ -e "$j" ] || break
		n=$((n+1))
		sleep 0.1 2>/dev/null || sleep 1
	done
fi
if [ -e "$j/spec" ]; then cat "$j/spec"
elif [ -e "$j.json" ]; then sed -n 's/.*"spec":"\([^"]*\)".*/\1/p' "$j.json"
else exit 74
fi
`

// parentScript DIR ID STAGE LIMIT CAP PROGRAM [ARGUMENT...] is the parent of the
// job's program, of whose output it keeps CAP blocks of 512 bytes: it leads a session of its own and records how the program ended.
const parentScript = functions + `
D=$1 id=$2 t=$3 limit=$4 cap=$5
shift 5
j=$D/jobs/$id log=$D/jobs/$id.log
trap : HUP INT TERM
umask 077
echo "$$ $(start $$) $(boot) $(date +%s)" >"$t/run" || exit
mkdir "$D/claims/$id" 2>/dev/null || { rm -rf "$t"; exit; }
mv "$t" "$j" || exit
cd "$j/work" || exit
: >"$log"
mkfifo "$j/pipe" || exit
[ -e "$j/cancel" ] && exit
: >"$j/begun" || exit
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
			[ -e "$j/exit" ] && exit
			sleep 1
			n=$((n+1))
		done
		[ -e "$j/exit" ] && exit
		: >"$j/timeout"
		kill -TERM -$$
		n=0
		while [ $n -lt 10 ]; do
			[ -e "$j/exit" ] && exit
			sleep 1
			n=$((n+1))
		done
		hard "$j"
	) </dev/null >/dev/null 2>&1 &
	w=$!
fi
echo "$r $w" >"$j/ours"
(trap - HUP INT TERM; umask 022; exec "$@") </dev/null >"$j/pipe" 2>&1
s=$?
# What the program left running in the background may hold the pipe.
n=0
while ! [ -e "$j/drained" ] && [ $n -lt 30 ]; do sleep 0.1 2>/dev/null || sleep 1; n=$((n+1)); done
n=0
until { echo "$s $(date +%s)" >"$j/exit.new" && mv "$j/exit.new" "$j/exit"; } 2>/dev/null; do
	n=$((n+1))
	[ $n -lt 150 ] || exit
	rm -rf "$j/work"
	sleep 2
done
cd /
rm -rf "$j/work" "$j/pipe"
save "$j"
`

// statusScript DIR OFFSET MAX [ID] prints what is known of a job, or of all, and of
// one the log from OFFSET (from 1) on: lines of a word and values, then an empty
// line; or of a job whose directory has gone "record" and the line that save wrote.
const statusScript = functions + `
D=$1 off=$2 max=$3 id=$4
beat
one() {
	echo "id ${1##*/}"
	echo "state $(state "$1")"
	for f in spec run exit cancel; do
		if read -r a <"$1/$f"; then echo "$f $a"; fi
	done 2>/dev/null
	[ -e "$1/timeout" ] && echo timeout
	[ -e "$1/begun" ] && echo begun
	[ -e "$1/cut" ] && echo cut
	echo "now $(date +%s)"
	echo
}
if [ -z "$id" ]; then
	for j in "$D"/jobs/*/; do
		j=${j%/}
		[ -e "$j/spec" ] && one "$j"
	done
	for j in "$D"/jobs/*.json; do
		[ -e "${j%.json}/spec" ] || ! [ -e "$j" ] || { echo record; head -n 1 "$j"; }
	done
	exit 0
fi
j=$D/jobs/$id
if [ -e "$j/spec" ]; then one "$j"
elif [ -e "$j.json" ]; then echo record; head -n 1 "$j.json"
else exit 74
fi
[ -e "$j.log" ] && tail -c "+$off" "$j.log" | head -c "$max"
exit 0
`

// cancelScript DIR ID asks a job to end: one that has not begun never will.
const cancelScript = functions + `
D=$1 id=$2
j=$D/jobs/$id
beat
[ -e "$j.json" ] && exit 0
umask 077
mkdir "$D/claims/$id" 2>/dev/null && exit 74 # it never arrived, and will not any more
n=0
until [ -e "$j/spec" ]; do # between its claim and its place
	n=$((n+1))
	[ $n -lt 50 ] || exit 74
	sleep 0.1 2>/dev/null || sleep 1
done
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
const removeScript = functions + `
D=$1
[ -d "$D" ] || exit 0
[ -z "$(busy)" ] || exit 75
rm -f "$D/agentless"
n=0
while alive "$D/preparing" && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1 2>/dev/null || sleep 1; done
if alive "$D/janitor"; then read -r a b <"$D/janitor"; kill -9 "-$a" 2>/dev/null || kill -9 "$a"; fi
clear
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
