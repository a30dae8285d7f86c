package install

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/sum/agent/agentless"
	"github.com/roundsman-go/roundsman/transport"
)

// checkScript SIZE BYTES NAME UNPACK POLICY DIR... reads SIZE bytes from standard
// input: a program of BYTES bytes, as UNPACK writes it. It runs that, by NAME and with
// the argument check, in the first base directory where it can be executed, or where
// that would be made; and has removed it when it ends, as it does with its input.
// Before it runs it prints
//
//	unfit N space|exec|other TEXT  why directory N (from 0) will not do
//	unfit N write DIR              this user may not write to DIR, which is needed for it
//	policy N NAME=VALUE            what POLICY, which is policyScript, says there
//	ready N                        the program runs; or
//	none                           it does not
//
// What was left by a shell that was killed goes after an hour. Of a program that was
// killed the rules in the firewall go at once: it is run again to sweep them.
//
// The program has a directory for itself, as it is known by its name.
const checkScript = aboveScript + `size=$1 bytes=$2 name=$3 unpack=$4 policy=$5
shift 5
umask 077
if ! command -v "${unpack%% *}" >/dev/null; then echo "unfit 0 other ${unpack%% *} is not installed"; echo none; exit; fi
limit= # a cable that is cut does not end the input
command -v timeout >/dev/null && limit="timeout 900"
f= g=
trap 'rm -rf "$f" "$g"' 0
trap 'exit 1' 1 2 13 15
n=-1
for b; do
	n=$((n+1))
	case $b in /*) ;; *) echo "unfit $n other it is no absolute path"; continue;; esac
	e=$b
	while ! [ -e "$e" ] && ! [ -L "$e" ]; do e=${e%/*}; e=${e:-/}; done
	if ! [ -d "$e" ]; then echo "unfit $n other $e is not a directory"; continue; fi
	bad=$(above "$e")
	if [ -n "$bad" ]; then echo "unfit $n other $bad"; continue; fi
	find "$e" -maxdepth 1 -name '.roundsman-check.*' -user "$(id -u)" -mmin +60 -exec rm -rf {} \; 2>/dev/null
	if ! [ -w "$e" ]; then echo "unfit $n write $(cd "$e" && pwd -P || echo "$e")"; continue; fi
	free=$(df -Pk "$e" 2>/dev/null | sed -n '$s/.* [1-9][0-9]*  *[0-9][0-9]*  *\([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')
	if [ -n "$free" ] && [ "$free" -lt $((bytes/1024+64)) ]; then echo "unfit $n space $((free/1024)) MiB are free in $e"; continue; fi
	g=$(mktemp -d "$e/.roundsman-check.XXXXXXXXXX" 2>&1) || { echo "unfit $n other $(printf %s "$g" | tr '\n' ' ')"; g=; continue; }
	if [ -z "$f" ]; then
		$limit head -c "$size" | $unpack >"$g/$name" 2>/dev/null
		[ "$(wc -c <"$g/$name")" -eq "$bytes" ] || { echo "unfit $n space the program could not be written"; echo none; exit; }
	elif ! cat "$f/$name" >"$g/$name" 2>/dev/null; then
		echo "unfit $n space the program could not be written"
		rm -rf "$g"
		g=
		continue
	fi
	chmod 700 "$g/$name"
	"$g/$name" version >/dev/null 2>&1 </dev/null
	rc=$?
	if [ $rc = 126 ] && [ "$(id -u)" = 0 ] && [ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ]; then
		chcon -t bin_t "$g/$name" 2>/dev/null && { "$g/$name" version >/dev/null 2>&1 </dev/null; rc=$?; }
	fi
	if [ $rc = 0 ]; then
		rm -rf "$f"
		f=$g g=
		echo "ready $n"
		"$f/$name" check
		rc=$?
		[ $rc -le 128 ] || "$f/$name" check >/dev/null 2>&1 </dev/null
		exit $rc
	fi
	echo "unfit $n exec $rc $g/$name"
	sh -c "$policy" sh "$g/$name" | sed "s/^/policy $n /"
	rm -rf "$f"
	f=$g g=
done
echo none
`

// Inspect implements agent.Installer. The program that it puts on the target is the one
// that Start would; where that agent is in its place already, it is used as it is.
// Where no program of ours is executed, Facts say why, and Dial and Listen fail with
// errors.ErrUnsupported.
func (in *Installer) Inspect(ctx context.Context, conn transport.Conn, opts agent.InspectOptions) (agent.Inspector, error) {
	r := newRun(in, conn, agent.StartOptions{Target: opts.Target, ID: "check", Place: nil, BaseDirs: opts.BaseDirs})
	if err := r.check(); err != nil {
		return nil, err
	}
	if p := opts.Place; p != nil && !validPlace(*p, p.ID) {
		opts.Place = nil
	}
	if isWindows(conn) {
		return newWindowsCheck(ctx, r, opts)
	}
	if p := opts.Place; in.Agentless || p != nil && p.Addr == agentless.Addr {
		return (&agentless.Installer{Logger: in.Logger}).Inspect(ctx, conn, opts)
	}
	var err error
	if r.sys, err = probe(ctx, conn); err != nil {
		return nil, r.fail(nil, err, "")
	}
	k := &check{run: r, opts: opts, dir: -1}
	for _, dir := range candidates(r.opts, r.sys) {
		k.bases = append(k.bases, path.Dir(dir))
	}
	if in.inProcess(conn) {
		if p := opts.Place; p != nil {
			k.bases = []string{path.Dir(p.Dir)}
		}
		if err := k.try(ctx); err != nil {
			return nil, err
		}
		k.begin(inProcessCheck())
		return k, nil
	}
	if p := opts.Place; p != nil {
		name := path.Join(p.Dir, agent.BinaryName)
		if fi, err := transport.Stat(ctx, conn, name); err == nil && fi.Mode.IsRegular() {
			k.bases = []string{path.Dir(p.Dir)}
			c, err := transport.DialCommand(ctx, conn, transport.Command{Argv: []string{name, "check"}})
			if err != nil {
				return nil, k.fail(err)
			}
			k.dir = 0
			k.begin(c)
			return k, nil
		}
	}
	if err := r.findBinary(ctx); err != nil {
		return nil, err
	}
	packed, err := in.packed.gzip(ctx, r.bin)
	if err != nil {
		return nil, k.fail(err)
	}
	c, err := k.send(ctx, agent.BinaryName, packed, "gzip -dc")
	if err != nil {
		return nil, err
	}
	if c != nil {
		k.begin(c)
	}
	return k, nil
}

// check is an agent.Inspector by a program on the target.
type check struct {
	*run
	opts  agent.InspectOptions
	bases []string
	name  string // of the program
	dir   int    // of bases, where the program is or would be; -1 is nowhere
	unfit []error

	client *agent.CheckClient
}

func (k *check) fail(err error) error {
	return &agent.Error{Op: "check", Target: k.opts.Target, Err: err}
}

func (k *check) begin(c net.Conn) {
	k.client = &agent.CheckClient{Conn: c, Target: k.opts.Target}
}

// inProcessCheck answers for the manager's own host.
func inProcessCheck() net.Conn {
	here, there := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = agent.ServeCheck(ctx, there, there)
		_ = there.Close()
	}()
	return &pipeCheck{here, func() { cancel(); <-done }}
}

type pipeCheck struct {
	net.Conn
	end func()
}

func (p *pipeCheck) Close() error {
	err := p.Conn.Close()
	p.end()
	return err
}

// try finds out in which of the base directories programs of jobs can be executed, as
// this process does what the agent's would.
func (k *check) try(ctx context.Context) error {
	k.bin = transport.BytesFile(tryName, tryProgram)
	c, err := k.send(ctx, tryName, tryProgram, "cat")
	if err != nil || c == nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, io.LimitReader(c, maxSaid)) // it ends by itself, and has removed what it made
	_ = c.Close()
	if err := ctx.Err(); err != nil {
		return k.fail(err)
	}
	return nil
}

// send starts checkScript and gives it k.bin, packed and under a name. It returns a
// connection to that where it runs, and else nil: k.unfit says why.
func (k *check) send(ctx context.Context, name string, packed []byte, unpack string) (net.Conn, error) {
	k.name = name
	argv := append([]string{"sh", "-c", checkScript, "sh", strconv.Itoa(len(packed)), strconv.FormatInt(k.bin.Size, 10), name, unpack, policyScript}, k.bases...)
	conn, err := transport.DialCommand(ctx, k.conn, transport.Command{Argv: argv})
	if err != nil {
		return nil, k.fail(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	stalled := time.AfterFunc(checkStall, func() { _ = conn.Close() })
	var sent sync.WaitGroup
	sent.Go(func() { // what is wrong with it shows in what is said
		for chunk := range slices.Chunk(packed, 64<<10) {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
			stalled.Reset(checkStall)
		}
	})
	said := bufio.NewReaderSize(conn, maxSaid)
	err = k.listenTo(ctx, said)
	if !stalled.Stop() && err != nil {
		err = fmt.Errorf("%w: nothing moved for %v: %w", transport.ErrTimeout, checkStall, err)
	}
	if err == nil && k.dir < 0 || err != nil {
		_ = conn.Close()
	}
	sent.Wait()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, k.fail(transport.ContextError(ctx, "check", k.opts.Target, err))
	}
	if k.dir < 0 {
		return nil, nil
	}
	return &readerConn{conn, said}, nil
}

// readerConn is a connection of which something was read already.
type readerConn struct {
	net.Conn
	r io.Reader
}

func (c *readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// checkStall is how long nothing may move while the program is sent and tried.
const checkStall = time.Minute

const (
	maxSaid      = 4 << 10 // bytes of a line of checkScript
	maxSaidLines = 1000
)

// listenTo reads what checkScript says until the program runs, or will not.
func (k *check) listenTo(ctx context.Context, said *bufio.Reader) error {
	unfit := make([]error, len(k.bases))
	policies := map[int]*bytes.Buffer{} // of where the program was not executed
	refused := map[int]string{}         // as what
	unwritable := map[int]string{}      // where
	for range maxSaidLines {
		line, err := said.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("the script that looks at the target: %w", err)
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		number, rest, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(number)
		if word != "none" && (err != nil || n < 0 || n >= len(k.bases)) {
			return &transport.Error{Op: "check", Kind: transport.ErrProtocol, Err: fmt.Errorf("the script that looks at the target says %.100q", line)}
		}
		switch word {
		case "ready", "none":
			if word == "ready" {
				k.dir = n
			}
			for n, name := range refused {
				unfit[n] = k.whyRefused(ctx, name, policies[n].Bytes())
			}
			for n, dir := range unwritable {
				unfit[n] = fmt.Errorf("this user may not write to %.300q", dir)
				if m, ok := mountAt(ctx, k.conn, dir); ok && m.has("ro") {
					unfit[n] = fmt.Errorf("%w mounted at %.300q", syscall.EROFS, m.dir)
				}
			}
			for n, err := range unfit {
				if err != nil {
					k.unfit = append(k.unfit, fmt.Errorf("%s: %w", k.bases[n], err))
				}
			}
			return nil
		case "policy":
			if p := policies[n]; p != nil {
				p.WriteString(rest + "\n")
			}
		case "unfit":
			kind, text, _ := strings.Cut(rest, " ")
			switch kind {
			case "exec":
				code, name, _ := strings.Cut(text, " ")
				if code == "126" {
					refused[n], policies[n] = name, &bytes.Buffer{}
				} else {
					unfit[n] = fmt.Errorf("%s cannot be executed there: exit %.10s", k.what(), code)
				}
			case "space":
				unfit[n] = fmt.Errorf("%w: %.300q", transport.ErrNoSpace, text)
			case "write":
				unwritable[n] = text
			default:
				unfit[n] = fmt.Errorf("%.300q", text)
			}
		}
	}
	return &transport.Error{Op: "check", Kind: transport.ErrProtocol, Err: errors.New("the script that looks at the target says too much")}
}

// what is what is to be executed on the target.
func (k *check) what() string {
	if k.name == tryName {
		return "a program"
	}
	return "the agent"
}

// whyRefused says why a program that was there was not executed.
func (k *check) whyRefused(ctx context.Context, name string, said []byte) error {
	if why := explain(ctx, k.conn, path.Dir(name)); why != "" {
		return fmt.Errorf("%w: %s", agent.ErrNoExec, why)
	}
	p := parsePolicy(said)
	err := fmt.Errorf("the system refuses to execute %s there", k.what())
	who := p.who("")
	if who == byNobody {
		return fmt.Errorf("%w; a security policy may forbid it", err)
	}
	denied := &agent.Error{Op: "check", Target: k.opts.Target, Kind: agent.ErrPolicy, Err: fmt.Errorf("%w; %s forbids it", err, who)}
	if k.name != tryName { // that would be another one for each job
		denied.Hint = p.hint(who, name, k.bin.Digest())
	}
	return denied
}

// Facts implements agent.Inspector.
func (k *check) Facts(ctx context.Context) (agent.Facts, error) {
	if k.client == nil {
		plain, err := (&agentless.Installer{Logger: k.in.Logger}).Inspect(ctx, k.conn, k.opts)
		if err != nil {
			return agent.Facts{}, err
		}
		f, err := plain.Facts(ctx)
		f.OS, f.Arch, f.Dir, f.Free, f.Unfit = k.sys.goos, k.sys.goarch, "", -1, k.unfit
		return f, err
	}
	id := ""
	if p := k.opts.Place; p != nil {
		id = p.ID
	}
	before := time.Now()
	a, err := k.client.Ask(ctx, agent.CheckQuestion{Facts: &agent.FactsQuestion{Dirs: k.bases, ID: id}})
	if err != nil {
		return agent.Facts{}, err
	}
	trip := time.Since(before)
	said := a.Facts
	if said == nil || len(said.Free) != len(k.bases) {
		return agent.Facts{}, k.fail(fmt.Errorf("%w: the answer is of another question", transport.ErrProtocol))
	}
	var unknown error
	if said.Error != "" {
		unknown = k.fail(fmt.Errorf("%.300q", said.Error))
	}
	f := agent.Facts{
		OS: k.sys.goos, Arch: k.sys.goarch, UID: k.sys.uid, Free: -1, Unfit: k.unfit,
		Skew: said.Now.Sub(before.Round(0).Add(trip / 2)), Within: trip / 2, Holders: said.Holders, HoldersErr: unknown, Staged: max(said.Staged, 0),
	}
	if k.dir >= 0 {
		f.Dir, f.Free = k.bases[k.dir], said.Free[k.dir]
	}
	return f, nil
}

func (k *check) ask(ctx context.Context, op string, q agent.CheckQuestion) (agent.CheckAnswer, error) {
	if k.client == nil {
		return agent.CheckAnswer{}, &agent.Error{Op: op, Target: k.opts.Target, Kind: errors.ErrUnsupported, Hint: "without a program on the target nobody there can try"}
	}
	return k.client.Ask(ctx, q)
}

// checkDial is how long the target tries to reach the manager.
const checkDial = 5 * time.Second

// Dial implements agent.Inspector.
func (k *check) Dial(ctx context.Context, addr netip.AddrPort) (agent.Reached, error) {
	a, err := k.ask(ctx, "dial", agent.CheckQuestion{Dial: &agent.DialQuestion{Addr: addr, Timeout: checkDial.Milliseconds()}})
	if err == nil && a.Reached == nil {
		err = k.fail(fmt.Errorf("%w: the answer is of another question", transport.ErrProtocol))
	}
	if err != nil {
		return agent.Reached{}, err
	}
	return *a.Reached, nil
}

// Listen implements agent.Inspector.
func (k *check) Listen(ctx context.Context, opts agent.ListenOptions) (agent.Listening, error) {
	a, err := k.ask(ctx, "listen", agent.CheckQuestion{Listen: &opts})
	if err == nil && (a.Listening == nil || a.Listening.Port == 0) {
		err = k.fail(fmt.Errorf("%w: the answer is of another question", transport.ErrProtocol))
	}
	if err != nil {
		return agent.Listening{}, err
	}
	return *a.Listening, nil
}

// Unlisten implements agent.Inspector.
func (k *check) Unlisten(ctx context.Context, l agent.Listening) error {
	_, err := k.ask(ctx, "listen", agent.CheckQuestion{Unlisten: l.Port})
	return err
}

// Close implements agent.Inspector. It waits until the program and its directory are
// gone.
func (k *check) Close(ctx context.Context) error {
	if k.client == nil {
		return nil
	}
	c := k.client
	k.client = nil
	return c.Close(ctx)
}
