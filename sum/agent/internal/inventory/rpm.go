package inventory

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

const (
	maxRPMOutput = 64 << 20
	maxRPMLine   = 8 << 10
)

// rpmFormat makes one line a package. None of the four tags can hold a tab or a
// line feed, and rpm writes no byte of its own between packages.
const rpmFormat = `%{NAME}\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\t%{ARCH}\n`

// RPMDatabases are the files that an rpm database consists of, by backend.
var RPMDatabases = []string{
	"/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages.db", "/var/lib/rpm/Packages",
	"/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages",
}

// RPMArgs are the arguments with which rpm lists packages as ParseRPM reads them.
var RPMArgs = []string{"-qa", "--nosignature", "--nodigest", "--qf", rpmFormat}

// runRPM asks the rpm program for all packages.
func runRPM(ctx context.Context, program string, found func(transport.Software)) error {
	cmd := exec.CommandContext(ctx, program, RPMArgs...)
	// The caller's environment could point rpm at other macros and another database.
	cmd.Env = []string{"LC_ALL=C", "HOME=/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var stderr head
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	perr := ParseRPM(out, found)
	if perr != nil {
		_ = cmd.Process.Kill() // it may be blocked on the pipe that nobody reads
	}
	werr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case perr != nil:
		return perr
	case werr != nil:
		return fmt.Errorf("%s: %w: %s", program, werr, bytes.TrimSpace(stderr.buf))
	}
	return nil
}

// ParseRPM reads what rpm prints with RPMArgs.
func ParseRPM(r io.Reader, found func(transport.Software)) error {
	limited := &io.LimitedReader{R: r, N: maxRPMOutput + 1}
	sc := bufio.NewScanner(limited)
	sc.Buffer(nil, maxRPMLine)
	count := 0
	for sc.Scan() {
		f := strings.Split(sc.Text(), "\t")
		if len(f) != 3 || f[0] == "" || f[1] == "" {
			return fmt.Errorf("unexpected line %.80q from rpm", sc.Text())
		}
		if f[0] == "gpg-pubkey" {
			continue // a trusted key; the database keeps them as packages
		}
		if count++; count > maxSoftware {
			return fmt.Errorf("more than %d packages: %w", maxSoftware, errTooLong)
		}
		if f[2] == "(none)" {
			f[2] = ""
		}
		found(transport.Software{Name: f[0], Version: f[1], Arch: f[2], Source: "rpm"})
	}
	if limited.N <= 0 {
		return fmt.Errorf("output of rpm: %w", errTooLong)
	}
	return sc.Err()
}

// head keeps the first bytes of what is written to it.
type head struct{ buf []byte }

func (t *head) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), 512-len(t.buf))]...)
	return len(p), nil
}
