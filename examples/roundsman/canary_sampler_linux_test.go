package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf16"

	"github.com/roundsman-go/roundsman/sum/agent"
)

// A canarySecret is a secret that must be seen nowhere.
type canarySecret struct {
	name  string
	forms []canaryForm
}

type canaryForm struct {
	name string
	text []byte
}

// newSecret makes one of a secret, with the forms in which it might be written:
// each of them as a part of something larger, too.
func newSecret(name string, secret []byte) canarySecret {
	c := canarySecret{name: name}
	add := func(form string, text []byte) {
		same := func(f canaryForm) bool { return bytes.Equal(f.text, text) }
		if len(text) >= 8 && !slices.ContainsFunc(c.forms, same) { // shorter ones are found by chance
			c.forms = append(c.forms, canaryForm{form, text})
		}
	}
	add("plain", secret)
	// In front of it are 0, 1 or 2 bytes of the group that it begins in.
	for shift := range 3 {
		padded := append(make([]byte, shift), secret...)
		first, whole := (shift*8+5)/6, len(padded)*8/6 // characters that depend on the secret alone
		add("base64", []byte(base64.RawStdEncoding.EncodeToString(padded))[first:whole])
		add("base64", []byte(base64.RawURLEncoding.EncodeToString(padded))[first:whole])
	}
	add("hex", []byte(hex.EncodeToString(secret)))
	add("hex", []byte(strings.ToUpper(hex.EncodeToString(secret))))
	for _, format := range []string{"% x", "% X"} {
		add("hex with spaces", fmt.Appendf(nil, format, secret))
	}
	add("list of bytes", bytes.Trim(fmt.Append(nil, secret), "[]"))
	add("list of bytes", bytes.Trim([]byte(strings.ReplaceAll(fmt.Sprint(secret), " ", ",")), "[]"))
	add("percent-encoded", []byte(url.QueryEscape(string(secret))))
	add("percent-encoded", []byte(url.PathEscape(string(secret))))
	var percent, upper, unicode strings.Builder
	for _, b := range secret {
		fmt.Fprintf(&percent, "%%%02x", b)
		fmt.Fprintf(&upper, "%%%02X", b)
	}
	for _, u := range utf16.Encode([]rune(string(secret))) {
		fmt.Fprintf(&unicode, `\u%04x`, u)
	}
	add("percent-encoded", []byte(percent.String()))
	add("percent-encoded", []byte(upper.String()))
	add("JSON-escaped", []byte(unicode.String()))
	quoted, _ := json.Marshal(string(secret))
	add("JSON-escaped", bytes.Trim(quoted, `"`))
	var plain bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	_ = e.Encode(string(secret))
	add("JSON-escaped", bytes.Trim(bytes.TrimSpace(plain.Bytes()), `"`))
	inGo := strconv.Quote(string(secret))
	add("quoted", []byte(inGo[1:len(inGo)-1]))
	inGo = strconv.QuoteToASCII(string(secret))
	add("quoted", []byte(inGo[1:len(inGo)-1]))
	add("quoted for a shell", []byte(strings.ReplaceAll(string(secret), "'", `'\''`)))
	var wide []byte
	for _, u := range utf16.Encode([]rune(string(secret))) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	add("UTF-16", wide)
	return c
}

// A secretIndex finds any of many secrets in one pass.
type secretIndex struct {
	maybe [1 << 16]bool
	forms map[uint64][]indexedForm // by their first 8 bytes
}

type indexedForm struct {
	secret int
	canaryForm
}

func slot(head uint64) uint64 { return head * 0x9e3779b97f4a7c15 >> 48 }

func newSecretIndex(list []canarySecret) *secretIndex {
	x := &secretIndex{forms: map[uint64][]indexedForm{}}
	for i, c := range list {
		for _, f := range c.forms {
			head := binary.LittleEndian.Uint64(f.text)
			x.maybe[slot(head)] = true
			x.forms[head] = append(x.forms[head], indexedForm{i, f})
		}
	}
	return x
}

// search returns the secrets that are in content, and in which form. It looks at each
// byte of all that is sampled, which nobody writes to meanwhile: the race detector
// would multiply that work and find nothing.
//
//go:norace
func (x *secretIndex) search(content []byte) map[int]string {
	var found map[int]string
	for i := 0; i+8 <= len(content); i++ {
		head := binary.LittleEndian.Uint64(content[i:])
		if !x.maybe[slot(head)] {
			continue
		}
		for _, f := range x.forms[head] {
			if bytes.HasPrefix(content[i:], f.text) {
				if found == nil {
					found = map[int]string{}
				}
				found[f.secret] = f.name
			}
		}
	}
	return found
}

// A sample is something that was seen.
type sample struct {
	where   string
	argv    string // of a process
	content []byte
	found   map[int]string // in what is not kept, of the secrets that were known
}

// canaryRoot is a directory whose files are sampled.
type canaryRoot struct {
	name string // for reports
	dir  string
}

// A sampler looks at all processes and at files, as often as it can, and keeps what
// it saw: some secrets are only known later.
type sampler struct {
	known *secretIndex           // for what is too large to be kept
	roots []canaryRoot           // the first is what a host has changed
	skip  func(name string) bool // files that are nobody's leak
	// bootstrap is called with the content of each file that is one, and of the file
	// beside it that says that an agent was ready before that was read.
	bootstrap func(fi fs.FileInfo, content, ready []byte)

	seed    maphash.Seed
	stop    chan struct{}
	workers sync.WaitGroup

	mu      sync.Mutex
	seen    map[uint64]bool
	samples []sample
	rounds  [2]int // over all processes, over all files
}

const sampleKept = 2 << 20 // bytes of one sample that is kept

func (s *sampler) start() {
	s.seed, s.stop, s.seen = maphash.MakeSeed(), make(chan struct{}), map[uint64]bool{}
	s.workers.Go(s.processes)
	s.workers.Go(func() { // these are there for a moment only
		for began := time.Now(); !s.over(); began = rest(began, 200*time.Microsecond) {
			dirs, _ := filepath.Glob(filepath.Join(s.roots[0].dir, "var/lib/roundsman/*"))
			for _, dir := range dirs {
				ready, _ := os.ReadFile(filepath.Join(dir, agent.ReadyName)) // first
				name := filepath.Join(dir, agent.BootstrapName)
				fi, err := os.Stat(name)
				content, rerr := os.ReadFile(name)
				if err == nil && rerr == nil {
					s.bootstrap(fi, content, ready)
				}
			}
		}
	})
	files := map[string][4]int64{}
	s.workers.Go(func() {
		for began := time.Now(); !s.over(); began = rest(began, time.Millisecond) {
			s.files(files)
			s.round(1)
		}
	})
}

// rest leaves the processor to what is watched for as long as the look that began then
// took, and for least: what has no processor shows nothing. It returns the time.
func rest(began time.Time, least time.Duration) time.Time {
	time.Sleep(max(least, time.Since(began)))
	return time.Now()
}

func (s *sampler) over() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *sampler) round(of int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rounds[of]++
}

// wait waits until everything was looked at since it was called.
func (s *sampler) wait(of int) bool {
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.rounds[of]
	}
	for began, end := count(), time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if count() >= began+2 {
			return true
		}
	}
	return false
}

// end ends the sampling, after one more look at all files.
func (s *sampler) end() []sample {
	close(s.stop)
	s.workers.Wait()
	s.files(map[string][4]int64{})
	return s.samples
}

// processes looks at the youngest processes all the time, and at all of them many
// times a second.
func (s *sampler) processes() {
	young := map[int]time.Time{}
	var all time.Time
	last := 0
	for now := time.Now(); !s.over(); now = rest(now, 200*time.Microsecond) {
		newest := newestPID()
		if last != 0 && newest-last < 1000 {
			for pid := last + 1; pid <= newest; pid++ {
				young[pid] = now
			}
		}
		last = newest
		for pid, born := range young { // it may execute another program, or several
			if s.process(strconv.Itoa(pid)); now.Sub(born) > 20*time.Millisecond {
				delete(young, pid)
			}
		}
		if now.Sub(all) > 20*time.Millisecond {
			for _, pid := range pidsOf("/proc") {
				s.process(pid)
			}
			s.round(0)
			all = time.Now()
		}
	}
}

// newestPID is the process or thread that was made last: proc_loadavg(5).
func newestPID() int {
	data, err := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(data))
	if err != nil || len(f) < 5 {
		return 0
	}
	pid, _ := strconv.Atoi(f[4])
	return pid
}

func pidsOf(proc string) []string {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return slices.DeleteFunc(names, func(name string) bool { return name[0] < '0' || name[0] > '9' })
}

func (s *sampler) process(pid string) {
	argv, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil || len(argv) == 0 {
		return
	}
	s.keep("command line of process", string(argv), argv)
	if env, err := os.ReadFile("/proc/" + pid + "/environ"); err == nil {
		s.keep("environment of process", string(argv), env)
	}
}

// keep keeps a sample, if it is new.
func (s *sampler) keep(where, argv string, content []byte) {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(where)
	_, _ = h.WriteString(argv)
	_, _ = h.Write(content)
	sum := h.Sum64()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[sum] {
		return
	}
	s.seen[sum] = true
	smp := sample{where: where, argv: argv, content: content}
	if argv != "" {
		smp.where += " " + strconv.Quote(strings.ReplaceAll(strings.Trim(argv, "\x00"), "\x00", " "))
	}
	if len(content) > sampleKept {
		smp.content, smp.found = nil, s.known.search(content)
	}
	s.samples = append(s.samples, smp)
}

// files reads what has changed since before.
func (s *sampler) files(before map[string][4]int64) {
	for _, root := range s.roots {
		_ = filepath.WalkDir(root.dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it has gone meanwhile
			}
			rel := root.name + strings.TrimPrefix(name, root.dir)
			if s.skip != nil && s.skip(rel) {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			fi, err := d.Info()
			if err != nil {
				return nil
			}
			var content []byte
			switch {
			case d.Type()&fs.ModeSymlink != 0:
				link, _ := os.Readlink(name)
				content = []byte(link)
			case d.Type().IsRegular():
				state := [4]int64{fi.Size(), fi.ModTime().UnixNano()}
				if st, ok := fi.Sys().(*syscall.Stat_t); ok {
					state[2], state[3] = int64(st.Ino), int64(st.Mode)
				}
				if before[name] == state {
					return nil
				}
				before[name] = state
				if content, err = os.ReadFile(name); err != nil {
					delete(before, name)
					return nil
				}
			}
			s.keep("name of file", "", []byte(rel))
			if content == nil {
				return nil
			}
			if isBootstrap(rel) {
				s.bootstrap(fi, content, nil)
				return nil
			}
			s.keep("file "+rel, "", content)
			return nil
		})
	}
}

// isBootstrap reports whether a file is one that may hold keys: as the agent reads
// it, or while it is being copied.
func isBootstrap(name string) bool {
	base := filepath.Base(name)
	return strings.Contains(name, "roundsman/") &&
		(base == agent.BootstrapName || strings.HasPrefix(base, "."+agent.BootstrapName+".") && strings.HasSuffix(base, ".part"))
}
