package agentless

import (
	"strconv"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// pruneFunctions delete the directories of agents that have left, as package agent
// does.
var pruneFunctions = `
# oldlogs DIR DAYS RECORDS: whether a directory of ours holds nothing but logs and the
# records of jobs, all of them so old; with records, at least RECORDS days.
oldlogs() (
	d=$1
	[ -d "$d" ] && ! [ -L "$d" ] && [ -O "$d" ] || exit 1
	case $(LC_ALL=C ls -ldn "$d") in d???--[-S]---*) ;; *) exit 1;; esac
	for f in "$d"/* "$d"/.[!.]* "$d"/..?* "$d"/jobs/* "$d"/jobs/.[!.]* "$d"/jobs/..?*; do
		[ -e "$f" ] || [ -L "$f" ] || continue
		[ -O "$f" ] && ! [ -L "$f" ] || exit 1
		case ${f#"$d"/} in
		jobs) [ -d "$f" ] || exit 1; continue;;
		agent.log|jobs/*.json|jobs/*.log) [ -f "$f" ] || exit 1;;
		*) exit 1;;
		esac
		n=${f##*/}
		n=${n%.*}
		case ${f#"$d"/} in agent.log) continue;; esac
		case $n in *[!0-9a-f]*) exit 1;; esac
		[ ${#n} = 32 ] || exit 1
	done
	days=$2
	for f in "$d"/jobs/*; do # a record may be another manager's, which has not asked for it yet
		if [ -e "$f" ] && [ "$days" -lt "$3" ]; then days=$3; fi
	done
	# With an error it prints something too. What seems to be of before 2025 is of a host
	# whose clock was wrong.
	[ -z "$(find "$d" \( -mtime "-$days" -o -mtime "+$(( ($(date +%s) - 1735689600) / 86400 ))" \) 2>&1)" ]
)
# prune DAYS: looks at no more than 1000 directories and deletes no more than 100, as
# whoever starts waits for it.
prune() (
	looked=0 gone=0
	for d in "${D%/*}"/*; do
		n=${d##*/}
		case $n in *[!0-9a-f]*) continue;; esac
		[ ${#n} = 16 ] && [ "$n" != "${D##*/}" ] || continue
		looked=$((looked+1))
		[ $looked -le 1000 ] || break
		oldlogs "$d" "$1" 30 || continue
		rm -f "$d"/agent.log "$d"/jobs/*.json "$d"/jobs/*.log
		# Somebody may have begun to use it: what is not empty stays.
		rmdir "$d/jobs" "$d" 2>/dev/null
		gone=$((gone+1))
		[ $gone -lt 100 ] || break
	done
	exit 0
)
`

// keepDays is StartOptions.KeepLogs as find(1) counts: in days, and "" for ever.
func keepDays(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return ""
	case d == 0:
		d = agent.DefaultKeepLogs
	}
	return strconv.FormatInt(int64(d/day)+int64(min(d%day, 1)), 10)
}
