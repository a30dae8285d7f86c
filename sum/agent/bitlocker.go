package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

// bitLocker is how the encryption of the drive of Windows is suspended, so that the host
// starts without a recovery key after its firmware has changed.
type bitLocker struct {
	tool  string // the path of manage-bde.exe; "" where the system has no BitLocker
	drive string // such as "C:"
	// run is runInGroup, or what a test puts there.
	run func(cmd *exec.Cmd) error
}

// bitLockerTime is how long one call of manage-bde.exe may take.
const bitLockerTime = 2 * time.Minute

// Exit codes of manage-bde.exe ("manage-bde status", -protectionaserrorlevel: 0 is protected
// and 1 is not). It ends with the HRESULT of what failed; FVE_E_NOT_ENCRYPTED is that
// the drive has no BitLocker.
const (
	bdeUnprotected  = 1
	bdeNotEncrypted = 0x80310001
)

// suspend suspends BitLocker until the host has been started once, and returns what it
// came to. Where it is off or suspended already, or not installed, nothing is needed. An
// error is that the drive is protected still, or may be.
func (b bitLocker) suspend(ctx context.Context) (said string, err error) {
	if b.tool == "" {
		return "this system has no BitLocker: nothing is suspended", nil
	}
	if _, err := os.Stat(b.tool); errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("BitLocker is not installed (no %s): nothing is suspended", b.tool), nil
	}
	code, _, err := b.call(ctx, "-status", b.drive, "-protectionaserrorlevel")
	if err != nil {
		return "", err
	}
	if code == bdeUnprotected {
		return fmt.Sprintf("BitLocker does not protect %s: nothing is suspended", b.drive), nil
	}
	code, out, err := b.call(ctx, "-protectors", "-disable", b.drive, "-RebootCount", "1")
	switch {
	case err != nil:
		return "", err
	case uint32(code) == bdeNotEncrypted:
		return fmt.Sprintf("BitLocker is off on %s: nothing is suspended", b.drive), nil
	case code != 0:
		return "", fmt.Errorf("manage-bde.exe ended with exit code %d (0x%08X): %s", code, uint32(code), out)
	}
	// Its word is not enough: a host that asks for a recovery key is out of reach.
	if code, out, err = b.call(ctx, "-status", b.drive, "-protectionaserrorlevel"); err != nil {
		return "", err
	}
	if code != bdeUnprotected {
		return "", fmt.Errorf("%s is protected still (exit code %d of manage-bde.exe): %s", b.drive, code, out)
	}
	return fmt.Sprintf("BitLocker of %s is suspended until the host has been started once", b.drive), nil
}

// call runs manage-bde.exe, and returns its exit code and the end of its output.
func (b bitLocker) call(ctx context.Context, args ...string) (code int, output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, bitLockerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.tool, args...)
	ownGroup(cmd)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = baseEnv(), rootDir(), &out, &out
	err = b.run(cmd)
	output = strings.Join(strings.Fields(tail(printed(out.Bytes()), maxText)), " ")
	var ended *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, output, fmt.Errorf("%s %s did not end: %w", b.tool, strings.Join(args, " "), ctx.Err())
	case errors.As(err, &ended):
		code, _ = exitOf(ended.ProcessState)
		return code, output, nil
	case errors.Is(err, exec.ErrWaitDelay): // it ended well, and something holds its output still
		return 0, output, nil
	case err != nil:
		return 0, output, err
	}
	return 0, output, nil
}

// errBitLocker says why a job's program did not begin.
var errBitLocker = errors.New("BitLocker cannot be suspended, so the host might not start again without its recovery key")

// suspendBitLocker does what the job asks for, before its program begins.
func (s *shim) suspendBitLocker(ctx context.Context, log *os.File) error {
	if !s.job.SuspendBitLocker {
		return nil
	}
	b := thisBitLocker()
	if s.bitLocker != nil {
		b = *s.bitLocker
	}
	said, err := b.suspend(ctx)
	if err != nil {
		s.log.Error("suspending BitLocker", "job", s.id, "error", err)
		return fmt.Errorf("%w: %w", errBitLocker, err)
	}
	s.log.Info(said, "job", s.id)
	_, err = fmt.Fprintf(log, "roundsman: %s\n", said)
	return err
}
