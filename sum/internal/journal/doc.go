// Package journal is the append-only record of what a run holds open, so that
// after a crash, or kill -9, the next start knows what to give back.
//
// A run writes that it is about to open something before it does, and that it
// closed it afterwards:
//
//	j, err := journal.Open(dir, journal.Options{})
//	...
//	err = j.Append(ctx, journal.Opened("firewall.rule", target, id, data))
//	... open the port; it is safe now: the record is on the disk ...
//	... close the port ...
//	err = j.Append(ctx, journal.Closed("firewall.rule", target, id))
//	err = j.Retire(ctx)
//
// A later start finds the runs that died, adopts them one by one, undoes what
// [Run.Open] tells, writes that it is closed, and retires them:
//
//	runs, err := journal.Runs(dir)
//	for _, run := range runs {
//		if run.State != journal.Dead {
//			continue
//		}
//		j, err := journal.Adopt(ctx, run, journal.Options{})
//		if errors.Is(err, journal.ErrLive) {
//			continue // another recoverer has it
//		}
//		open, err := run.Open()
//		...
//
// # Secrets
//
// The journal is plain text that outlives the run. Record.Data is the caller's,
// and the journal neither looks into it nor redacts it: passwords, keys, tokens
// and session cookies never go in. What Recover needs in order to log in again
// comes from where the first login's came from.
//
// # Durability
//
// [Journal.Append] returns nil only after the record was written and fsynced;
// records of concurrent callers share one write and one fsync. When a write or
// an fsync fails, nothing more can be said about what is on the disk, so that
// the journal refuses every later record with the same error.
//
// # Files
//
// A directory (0700) holds for each run the file run-TIME-ID.jsonl (0600) and
// beside it run-TIME-ID.lock. A live run holds an exclusive lock (flock(2), or
// LockFileEx on Windows) on the latter, which the kernel releases when the
// process ends in whatever way; the lock is a file of its own because a lock on
// Windows also keeps others from reading. Locks are between processes of one
// host: a journal directory is not for network file systems that many managers
// share.
//
// A line is one JSON object of at most [MaxRecord] bytes. Its last member is the
// CRC-32C of all bytes before that member:
//
//	{"seq":2,"time":"2025-06-01T10:00:00Z","op":"opened","kind":"port","id":"63001","crc":"1b2c3d4e"}
//
// Sequence numbers start at 1 and have no gaps. What follows the last newline
// is a record whose write was cut short; it was never acknowledged, and is
// reported as [ErrTorn]. Any other line that is damaged is [ErrCorrupt].
package journal
