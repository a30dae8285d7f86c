package agent

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/portalloc"
	"github.com/roundsman-go/roundsman/transport"
)

// The conversation with "check": a line of JSON for each question and each answer, one
// after the other.
const maxCheckLine = 64 << 10 // bytes

// checkLease is how long "check" stays that is not asked anything: a cable that is cut
// does not end its input.
const checkLease = time.Minute

// CheckQuestion is what a manager asks of "check"; one of its parts is set.
type CheckQuestion struct {
	Facts    *FactsQuestion `json:"facts,omitempty"`
	Dial     *DialQuestion  `json:"dial,omitempty"`
	Listen   *ListenOptions `json:"listen,omitempty"`
	Unlisten uint16         `json:"unlisten,omitempty"`
	Quit     bool           `json:"quit,omitempty"` // the program ends; there is no answer
}

// FactsQuestion asks what the host is like.
type FactsQuestion struct {
	Dirs []string `json:"dirs"`         // base directories
	ID   string   `json:"id,omitempty"` // of the agent whose payloads count
}

// DialQuestion asks who answers.
type DialQuestion struct {
	Addr    netip.AddrPort `json:"addr"`
	Timeout int64          `json:"timeout_ms"`
}

// CheckAnswer is an answer.
type CheckAnswer struct {
	Facts     *CheckedFacts `json:"facts,omitempty"`
	Reached   *Reached      `json:"reached,omitempty"`
	Listening *Listening    `json:"listening,omitempty"`
	Error     string        `json:"error,omitempty"`
	// Denied says that Error is of missing rights, Unsupported that the host cannot,
	// and Firewall that it is of its firewall.
	Denied      bool `json:"denied,omitempty"`
	Unsupported bool `json:"unsupported,omitempty"`
	Firewall    bool `json:"firewall,omitempty"`
}

// CheckedFacts are what "check" says of its host.
type CheckedFacts struct {
	Free    []int64      `json:"free"` // of each directory; -1 is unknown
	Staged  int64        `json:"staged,omitempty"`
	Now     time.Time    `json:"now"`
	Holders []HostHolder `json:"holders,omitempty"`
	Error   string       `json:"error,omitempty"` // why Holders are not known
}

// checker is the program "check".
type checker struct {
	ctx   context.Context
	ports *portalloc.Allocator
	ears  map[uint16]*ear
}

// ear is one port that it listens on.
type ear struct {
	ln      net.Listener
	walls   *walls
	release func()
	served  sync.WaitGroup
}

// ServeCheck is the program "check". It answers until its input ends, as it does when
// the manager is gone, or until ctx does; then a read of in may still be under way.
// What killed programs of ours left in the host's firewall goes first.
func ServeCheck(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ports, err := portalloc.New(portalloc.Config{Generation: portalloc.Classic})
	if err != nil {
		return err
	}
	_ = sweepWalls(context.WithoutCancel(ctx)) // what stays lets nobody in
	c := &checker{ctx: ctx, ports: ports, ears: map[uint16]*ear{}}
	defer func() {
		for port := range c.ears {
			c.unlisten(port)
		}
		_ = ports.Close(context.WithoutCancel(ctx))
	}()
	questions, ended := make(chan CheckQuestion), make(chan error, 1)
	go func() {
		defer cancel() // nobody waits for an answer any more
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxCheckLine)
		for lines.Scan() {
			var q CheckQuestion
			if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
				ended <- fmt.Errorf("a question that is no JSON: %w", err)
				return
			}
			select {
			case questions <- q:
			case <-ctx.Done():
				return
			}
		}
		ended <- lines.Err()
	}()
	idle := time.NewTimer(checkLease)
	defer idle.Stop()
	for {
		idle.Reset(checkLease)
		select {
		case <-idle.C:
			return fmt.Errorf("no question for %v: the manager is gone", checkLease)
		case q := <-questions:
			if q.Quit {
				return nil
			}
			line, err := json.Marshal(c.answer(q))
			if err != nil {
				return err
			}
			if _, err := out.Write(append(line, '\n')); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			select {
			case err := <-ended:
				return err
			default:
				return ctx.Err()
			}
		}
	}
}

func (c *checker) answer(q CheckQuestion) CheckAnswer {
	var a CheckAnswer
	var err error
	switch {
	case q.Facts != nil:
		a.Facts = checkFacts(*q.Facts)
	case q.Dial != nil:
		r := c.dial(*q.Dial)
		a.Reached = &r
	case q.Listen != nil:
		a.Listening, err = c.listen(*q.Listen)
	case q.Unlisten != 0:
		c.unlisten(q.Unlisten)
	default:
		err = errors.New("the question is not known to this program")
	}
	if err != nil {
		a.Error, a.Denied, a.Unsupported = err.Error(), errors.Is(err, fs.ErrPermission), errors.Is(err, errors.ErrUnsupported)
		a.Firewall = errors.Is(err, ErrFirewall)
	}
	return a
}

func checkFacts(q FactsQuestion) *CheckedFacts {
	f := &CheckedFacts{Now: time.Now()}
	for _, dir := range q.Dirs {
		free, err := freeSpace(existing(dir))
		if err != nil {
			free = -1
		}
		f.Free = append(f.Free, free)
		f.Staged += staged(dir, q.ID)
		if f.Error == "" && len(f.Holders) == 0 {
			holders, err := hostHolders(dir)
			f.Holders = holders
			if err != nil {
				f.Error = err.Error()
			}
		}
	}
	return f
}

// staged returns how many bytes of payloads an agent has.
func staged(base, id string) (sum int64) {
	entries, err := os.ReadDir(home(filepath.Join(base, id)).blobs())
	if id == "" || err != nil {
		return 0
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			sum += fi.Size()
		}
	}
	return sum
}

// existing returns the deepest directory on the way to dir that is there.
func existing(dir string) string {
	for {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// greetingTime is how long a peer that was reached may take to greet. Who does not
// greet at once does not at all.
const greetingTime = 2 * time.Second

// dial dials the manager and reads its greeting.
func (c *checker) dial(q DialQuestion) Reached {
	ctx, cancel := context.WithTimeout(c.ctx, time.Duration(min(max(q.Timeout, 1), 60_000))*time.Millisecond)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", q.Addr.String())
	if err != nil {
		return Reached{How: HowReached(err), Text: err.Error()}
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(greetingTime))
	greeting, err := readGreeting(conn)
	r := Reached{How: ReachedPeer, Greeting: greeting}
	if err != nil {
		r.Text = err.Error()
	}
	return r
}

// readGreeting reads one line, or what fits.
func readGreeting(conn io.Reader) (string, error) {
	var got []byte
	buf := make([]byte, maxGreeting)
	for len(got) < maxGreeting && !bytes.ContainsRune(got, '\n') {
		n, err := conn.Read(buf[:maxGreeting-len(got)])
		got = append(got, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return string(got), err
		}
	}
	line, _, _ := bytes.Cut(got, []byte("\n"))
	return strings.ToValidUTF8(string(line), "?"), nil
}

func (c *checker) listen(q ListenOptions) (*Listening, error) {
	role, o := portalloc.Agent, portalloc.Options{}
	switch {
	case q.Port == 0:
		role = portalloc.Dynamic
	case q.Port != DefaultPort || !q.Next:
		o.Port = q.Port
	}
	lease, err := c.ports.Listen(c.ctx, role, o)
	if err != nil {
		return nil, err
	}
	e := &ear{ln: lease, release: func() {}}
	if len(q.Firewall) > 0 {
		e.walls, err = openFirewall(c.ctx, q.Firewall, lease.Port(), slog.New(slog.DiscardHandler))
		if err == nil {
			e.release, err = e.walls.allow(c.ctx, lease.Port())
		}
		if err != nil {
			e.walls.close(c.ctx)
			_ = lease.Close()
			return nil, err
		}
	}
	e.served.Go(func() { Greet(lease, q.Greeting) })
	c.ears[lease.Port()] = e
	l := &Listening{Port: lease.Port()}
	for _, s := range lease.Skipped() {
		if q.Port != 0 && s.First <= q.Port && q.Port <= s.Last {
			l.Taken = s.String()
		}
	}
	return l, nil
}

// Greet greets who comes, one after the other, and hangs up, until the listener is
// closed.
func Greet(ln net.Listener, greeting string) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // such as too many open files
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(conn, greeting+"\n")
		_ = conn.Close()
	}
}

func (c *checker) unlisten(port uint16) {
	e := c.ears[port]
	delete(c.ears, port)
	if e == nil {
		return
	}
	e.release()
	e.walls.close(c.ctx)
	_ = e.ln.Close()
	e.served.Wait()
}

// CheckClient asks a program "check" over its standard input and output. It is not
// for concurrent use.
type CheckClient struct {
	Conn   net.Conn
	Target string
	lines  *bufio.Scanner
	broken error // of a question whose answer was not waited for
}

// Ask asks one question and waits for its answer.
func (c *CheckClient) Ask(ctx context.Context, q CheckQuestion) (CheckAnswer, error) {
	fail := func(kind, err error) (CheckAnswer, error) {
		return CheckAnswer{}, &Error{Op: "check", Target: c.Target, Kind: kind, Err: err}
	}
	if err := cmp.Or(c.broken, ctx.Err()); err != nil {
		return fail(nil, err)
	}
	line, err := json.Marshal(q)
	if err != nil {
		return fail(transport.ErrInvalid, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := c.Conn.Write(append(line, '\n')); err != nil {
		c.broken = transport.ContextError(ctx, "check", c.Target, err)
		return fail(nil, c.broken)
	}
	if c.lines == nil {
		c.lines = bufio.NewScanner(c.Conn)
		c.lines.Buffer(nil, maxCheckLine)
	}
	if !c.lines.Scan() {
		err := c.lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		c.broken = transport.ContextError(ctx, "check", c.Target, err)
		return fail(nil, c.broken)
	}
	a, err := parseCheckAnswer(c.lines.Bytes())
	if err != nil {
		return fail(transport.ErrProtocol, err)
	}
	if a.Error != "" {
		return fail(nil, a.said())
	}
	return a, nil
}

// saidError is an error of the target, of which the text and some classes came over.
type saidError struct {
	text string
	is   []error
}

func (e *saidError) Error() string   { return e.text }
func (e *saidError) Unwrap() []error { return e.is }

func (a CheckAnswer) said() error {
	e := &saidError{text: a.Error}
	if a.Denied {
		e.is = append(e.is, fs.ErrPermission)
	}
	if a.Unsupported {
		e.is = append(e.is, errors.ErrUnsupported)
	}
	if a.Firewall {
		e.is = append(e.is, ErrFirewall)
	}
	return e
}

// Close has the program end, and waits for that until ctx ends.
func (c *CheckClient) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transport.CloseGrace)
	defer cancel()
	_ = c.Conn.SetDeadline(time.Time{}) // that of a question may have passed
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := c.Conn.Write([]byte(`{"quit":true}` + "\n")); err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, maxCheckLine))
	}
	return c.Conn.Close()
}

// parseCheckAnswer reads what a target says, which may be anything.
func parseCheckAnswer(line []byte) (CheckAnswer, error) {
	var a CheckAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		return CheckAnswer{}, err
	}
	if len(a.Error) > maxText {
		a.Error = a.Error[:maxText]
	}
	if r := a.Reached; r != nil {
		switch r.How {
		case ReachedPeer, ReachedRefused, ReachedNothing, ReachedNoRoute, ReachedForbids, ReachedFailed:
		default:
			return CheckAnswer{}, fmt.Errorf("it was reached in a way that is not known: %.40q", r.How)
		}
		r.Greeting, r.Text = r.Greeting[:min(len(r.Greeting), maxGreeting)], r.Text[:min(len(r.Text), maxText)]
	}
	return a, nil
}

// hostHolders returns what holds the host.
func hostHolders(base string) ([]HostHolder, error) {
	if !supported {
		return nil, nil
	}
	bases := slices.DeleteFunc(home(filepath.Join(base, "check")).bases(), func(dir string) bool { return existing(dir) != dir })
	if len(bases) == 0 {
		return nil, nil
	}
	jobs, err := hostJobs(bases, "")
	var out []HostHolder
	for _, j := range jobs {
		out = append(out, j.HostHolder)
	}
	return out, err
}
