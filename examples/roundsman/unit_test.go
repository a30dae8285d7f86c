package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/stretchr/testify/require"
)

func TestStatusOrder(t *testing.T) {
	t.Parallel()
	outcomes := func(kinds ...sum.OutcomeKind) *tally {
		var t tally
		for i, k := range kinds {
			t.add(sum.Outcome{Target: sum.Target{Name: "t"}, Digest: string(rune('a' + i)), Kind: k})
		}
		return &t
	}
	for _, tc := range []struct {
		kinds            []sum.OutcomeKind
		stopped          bool
		status, detailed int
	}{
		{nil, false, exitFine, exitNothing},
		{[]sum.OutcomeKind{sum.NotNeeded}, false, exitFine, exitNothing},
		{[]sum.OutcomeKind{sum.NotNeeded, sum.Updated}, false, exitFine, exitFine},
		{[]sum.OutcomeKind{sum.Updated, sum.UpdatedNeedsReboot, sum.NotNeeded}, false, exitFine, exitReboot},
		{[]sum.OutcomeKind{sum.UpdatedNeedsReboot, sum.Unverified}, false, exitUnverified, exitUnverified},
		{[]sum.OutcomeKind{sum.Unverified, sum.Failed}, false, exitFailed, exitFailed},
		{[]sum.OutcomeKind{sum.Updated, sum.Cancelled}, false, exitFailed, exitFailed},
		{[]sum.OutcomeKind{sum.Failed, sum.Unverified}, true, exitStopped, exitStopped},
	} {
		require.Equal(t, tc.status, outcomes(tc.kinds...).status(tc.stopped, false), "%v", tc)
		require.Equal(t, tc.detailed, outcomes(tc.kinds...).status(tc.stopped, true), "%v", tc)
	}
	failed := outcomes(sum.Updated)
	failed.fail("other")
	require.Equal(t, exitFailed, failed.status(false, true))
	require.Equal(t, 1, failed.failures())
}

// TestStatusOfRecovered: what an earlier run began counts until this run has done
// the same component again.
func TestStatusOfRecovered(t *testing.T) {
	t.Parallel()
	old := func(k sum.OutcomeKind) sum.Outcome {
		return sum.Outcome{Target: sum.Target{Name: "t"}, Digest: "d", Kind: k, Recovered: true}
	}
	now := func(k sum.OutcomeKind) sum.Outcome {
		return sum.Outcome{Target: sum.Target{Name: "t"}, Digest: "d", Kind: k}
	}
	var a tally
	require.True(t, a.add(old(sum.Updated)))
	require.False(t, a.add(now(sum.NotNeeded)), "the good end of the earlier run is the outcome")
	require.Equal(t, exitFine, a.status(false, true))
	var b tally
	b.add(old(sum.Failed))
	require.Equal(t, exitFailed, b.status(false, false))
	require.True(t, b.add(now(sum.Updated)))
	require.Equal(t, exitFine, b.status(false, false))
	var c tally
	c.add(old(sum.Cancelled))
	require.Equal(t, exitFine, c.status(false, false), "it never began, and nobody wants it now")
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain äöü 日本": "plain äöü 日本",
		"a\tb":         "a b",
		"a\r\nb\nc":    "a | b | c",
		"a\rb":         `a\x0db`,
		"\x1b[31mred":  `\x1b[31mred`,
		"\u009b31m":    `\u009b31m`,
		"\u202eabc":    `\u202eabc`,
		"\xff\xfe":     `\xff\xfe`,
		"\U000e0001":   `\U000e0001`,
		"\x00\x7f":     `\x00\x7f`,
	} {
		require.Equal(t, want, clean(in), "%q", in)
	}
	require.Equal(t, []string{"one", "100%", "", "two"}, cleanLines("one\r\n10%\r100%\n\ntwo\r\n\n\n"))
	require.Empty(t, cleanLines("\n"))
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\u009b\u202e\xff\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		if got := clean(s); !isClean(got) && !strings.ContainsRune(got, '\ufffd') {
			t.Errorf("%q gives %q", s, got)
		}
		in, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		out := cleanJSON(in)
		for _, r := range string(out) {
			if r < 0x20 || r >= 0x7f && r < 0xa0 {
				t.Errorf("%q gives %q", s, out)
			}
		}
		var a, b string
		if err := json.Unmarshal(in, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &b); err != nil || a != b {
			t.Errorf("%q became %q: %v", a, b, err)
		}
	})
}

// screen is a terminal that understands what live writes.
type screen struct {
	mu    sync.Mutex
	lines []string // the last one is being written
	raw   bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(p)
	if s.lines == nil {
		s.lines = []string{""}
	}
	for rest := string(p); rest != ""; {
		if after, ok := strings.CutPrefix(rest, "\x1b["); ok {
			i := strings.IndexAny(after, "FJ")
			if after[i] == 'F' {
				n := 0
				for _, c := range after[:i] {
					n = 10*n + int(c-'0')
				}
				s.lines = append(s.lines[:len(s.lines)-1-n], "")
			}
			rest = after[i+1:]
			continue
		}
		if rest[0] == '\n' {
			s.lines = append(s.lines, "")
		} else {
			s.lines[len(s.lines)-1] += rest[:1]
		}
		rest = rest[1:]
	}
	return len(p), nil
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// shows waits until the screen shows a text.
func (s *screen) shows(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return s.text() == want }, 20*time.Second, 5*time.Millisecond, "want %q, have %q", want, s.text())
}

func TestLive(t *testing.T) {
	t.Parallel()
	var s screen
	l := newLive(&s, func() (int, int) { return 20, 5 })
	rep := newReporter(&s, false, false, l)
	rep.begin(sum.Target{Name: "a"}, "inventory")
	rep.begin(sum.Target{Name: "b"}, "a text that is too long for this line")
	s.shows(t, "a: inventory\nb: a text that is t\n")
	rep.line("printed above")
	require.Equal(t, "printed above\na: inventory\nb: a text that is t\n", s.text())
	rep.progress(sum.Event{Target: sum.Target{Name: "a"}, Component: "c", Phase: "stage", Done: 1, Total: 2, Text: "f"})
	rep.begin(sum.Target{Name: "c"}, "x")
	rep.begin(sum.Target{Name: "d"}, "x")
	s.shows(t, "printed above\na: c  stage  50% of\nb: a text that is t\n... and 2 more\n")
	rep.idle(sum.Target{Name: "a"})
	rep.idle(sum.Target{Name: "b"})
	s.shows(t, "printed above\nc: x\nd: x\n")
	l.pause(func() {
		require.Equal(t, "printed above\n", s.text(), "the terminal is somebody else's")
		rep.line("meanwhile")
		require.Equal(t, "printed above\nmeanwhile\n", s.text())
	})
	s.shows(t, "printed above\nmeanwhile\nc: x\nd: x\n")
	_, err := l.through(&s).Write([]byte("a warning\n"))
	require.NoError(t, err)
	s.shows(t, "printed above\nmeanwhile\na warning\nc: x\nd: x\n")
	l.close()
	require.Equal(t, "printed above\nmeanwhile\na warning\n", s.text())
}

func TestProgressIsThinnedOut(t *testing.T) {
	t.Parallel()
	count := func(asJSON bool) int {
		var out bytes.Buffer
		rep := newReporter(&out, asJSON, false, nil)
		for done := range int64(1001) {
			rep.progress(sum.Event{Target: sum.Target{Name: "a"}, Component: "c", Phase: "stage", Done: done, Total: 1000, Text: "f"})
		}
		rep.progress(sum.Event{Target: sum.Target{Name: "a"}, Component: "c", Phase: "verify"})
		return strings.Count(out.String(), "\n")
	}
	require.Equal(t, 2, count(false), "the beginning of each phase")
	n := count(true)
	require.GreaterOrEqual(t, n, 3, "beginning, end, next phase")
	require.Less(t, n, 500)
}

type brokenWriter struct{ err error }

func (b brokenWriter) Write([]byte) (int, error) { return 0, b.err }

func TestLostOutput(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	status := run(t.Context(), []string{"ports"}, strings.NewReader(""), brokenWriter{io.ErrShortWrite}, &errs, nil)
	require.Equal(t, exitFailed, status)
	require.Contains(t, errs.String(), "output was lost")
	errs.Reset()
	status = run(t.Context(), []string{"ports"}, strings.NewReader(""), brokenWriter{syscall.EPIPE}, &errs, nil)
	require.Equal(t, exitFine, status, "the reader has seen enough")
	require.Empty(t, errs.String())
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	a := &app{env: map[string]string{passwordVariable: "from-env", sudoPasswordVariable: "sudo-env"}}
	login, sudo, err := a.passwords(&sessionFlags{})
	require.NoError(t, err)
	require.Equal(t, "from-env", login.Reveal())
	require.Equal(t, "sudo-env", sudo.Reveal())

	file := filepath.Join(t.TempDir(), "pw")
	for content, want := range map[string]string{"secret\n": "secret", "secret": "secret", " with blanks \r\n": " with blanks ", "x\n\n": "x"} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		login, _, err = a.passwords(&sessionFlags{passwordFile: file})
		require.NoError(t, err)
		require.Equal(t, want, login.Reveal())
	}
	for _, content := range []string{"", "\n", "secret\nmore\n", strings.Repeat("x", maxPassword+1)} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		_, _, err = a.passwords(&sessionFlags{passwordFile: file})
		require.True(t, isUsage(err), "%v", err)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestPending(t *testing.T) {
	t.Parallel()
	byName := sum.Target{Name: "db", Kind: sum.Linux, User: "root", Address: "db1"}
	other := sum.Target{Kind: sum.Linux, Address: "other"}
	open := []sum.Target{byName, other}
	require.Equal(t, open, pending(open, nil))
	url, err := sum.ParseTarget("linux://root@db1")
	require.NoError(t, err)
	require.Equal(t, []sum.Target{byName}, pending(open, []sum.Target{url}))
	third := sum.Target{Kind: sum.Linux, Address: "third"}
	require.Equal(t, []sum.Target{third}, pending(open, []sum.Target{third}))
}

func TestFlatten(t *testing.T) {
	t.Parallel()
	a, b, c := &sum.Error{Target: "a", Err: io.EOF}, &sum.Error{Target: "b", Err: io.EOF}, errors.New("c")
	require.Equal(t, []error{a, b, c}, flatten(errors.Join(errors.Join(a, b), c)))
	require.Nil(t, flatten(nil))
	require.Len(t, flatten(errors.Join(c, io.EOF)), 1, "one cause in two parts stays one")
}

func TestSignals(t *testing.T) {
	var errs screen
	left := make(chan int, 1)
	ctx, stop := signalContext(context.Background(), &errs, func(status int) { left <- status })
	defer stop()
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	if err := self.Signal(syscall.SIGTERM); err != nil {
		t.Skipf("this system has no signals: %v", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("SIGTERM did not end the context")
	}
	require.Contains(t, errs.text(), "stopping")
	require.Empty(t, left)
	require.NoError(t, self.Signal(os.Interrupt))
	select {
	case status := <-left:
		require.Equal(t, exitStopped, status)
	case <-time.After(20 * time.Second):
		t.Fatal("the second signal did not leave at once")
	}
}
