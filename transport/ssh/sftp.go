package ssh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"github.com/roundsman-go/roundsman/transport"
	xssh "golang.org/x/crypto/ssh"
)

// sftpClient is one SFTP session.
type sftpClient struct {
	*sftp.Client
	ch     xssh.Channel
	packet int           // bytes of one read or write request
	window int           // requests under way in one transfer
	gone   chan struct{} // closed when the session has ended, before any request hears of it
	end    func()        // closes it; may be called often
	in     *meter
}

// over reports whether err is what becomes of a request because the session has
// ended, rather than an answer to it.
func (s *sftpClient) over(err error) bool {
	if err == nil || answered(err) {
		return false
	}
	if errors.Is(err, sftp.ErrSSHFxConnectionLost) { // the client has given up on what the server sends
		s.end()
	}
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// meter counts what a server sends, against the budgets of the calls that must
// not take any amount of it.
type meter struct {
	r       io.Reader
	end     func() // called when nothing more can be read, before the error is returned; may be nil
	mu      sync.Mutex
	budgets map[*budget]struct{}
}

type budget struct {
	left  int64 // bytes; guarded by meter.mu
	spent func()
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && m.end != nil {
		m.end()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for b := range m.budgets {
		if b.left -= int64(n); b.left < 0 {
			b.spent()
			delete(m.budgets, b)
		}
	}
	return n, err
}

// allow calls spent when more than so many bytes have come before the function
// that it returns is called.
func (m *meter) allow(bytes int64, spent func()) func() {
	b := &budget{bytes, spent}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.budgets == nil {
		m.budgets = map[*budget]struct{}{}
	}
	m.budgets[b] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.budgets, b)
	}
}

const (
	// bigPacket is what OpenSSH takes in one request (PROTOCOL, limits@openssh.com:
	// 256 KiB less a kilobyte for the header).
	bigPacket = 255 << 10
	// maxWindow is the largest number of bytes under way in one transfer, in any
	// version of this driver: so much at the end of a partial file may have holes.
	maxWindow = 4 << 20
)

// sftp returns the SFTP session that all calls but transfers share.
func (c *conn) sftp(ctx context.Context) (*sftpClient, error) {
	select {
	case c.sftpTurn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-c.sftpTurn }()
	if c.sftpErr != nil {
		return nil, c.sftpErr
	}
	if s := c.sftpShared; s != nil {
		select {
		case <-s.gone:
		default:
			c.useSFTP(ctx)
			return s, nil
		}
	}
	s, err := c.openSFTP(ctx, maxPacket)
	if err != nil {
		if ctx.Err() == nil && c.ctx.Err() == nil && c.forGood(err) {
			c.sftpErr = err
		}
		return nil, err
	}
	c.sftpShared = s
	c.useSFTP(ctx)
	return s, nil
}

// forGood reports whether an error of openSFTP tells of the server and not of the
// moment. Where the shell can do the same, an answer that makes no sense or takes
// too long is enough.
func (c *conn) forGood(err error) bool {
	var refused *xssh.OpenChannelError
	return errors.Is(err, errors.ErrUnsupported) || c.shell && !errors.As(err, &refused)
}

// useSFTP counts a use of the shared session, until ctx ends.
func (c *conn) useSFTP(ctx context.Context) {
	c.sftpUses.Add(1)
	context.AfterFunc(ctx, func() { c.sftpUses.Add(-1) })
}

// errNarrow is why a target has no SFTP that has it.
var errNarrow = errors.New("the server opens no session beside that of SFTP")

// retireSFTP closes the shared session if nobody uses it: the server has no room
// for another one beside it (MaxSessions of sshd). From then on the shell does what
// it was for, where there is one.
func (c *conn) retireSFTP() {
	select {
	case c.sftpTurn <- struct{}{}:
	default:
		return // it is just being opened
	}
	defer func() { <-c.sftpTurn }()
	s := c.sftpShared
	if s == nil || c.sftpUses.Load() > 0 {
		return
	}
	if c.shell {
		c.sftpErr = errNarrow
	}
	c.sftpShared = nil
	s.drop(c)
}

// transferSFTP opens a session of its own for one transfer, which can be broken
// off by closing it.
func (c *conn) transferSFTP(ctx context.Context) (*sftpClient, error) {
	look, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.sftp(look)
	if err != nil {
		return nil, err
	}
	packet := maxPacket
	if _, ok := s.HasExtension("limits@openssh.com"); ok {
		packet = bigPacket
	}
	cancel() // it may have to make room
	return c.openSFTP(ctx, packet)
}

func (c *conn) openSFTP(ctx context.Context, packet int) (*sftpClient, error) {
	// What a login shell prints before the protocol begins may look like the start
	// of a long message, for whose end one would wait for ever.
	ctx, cancel := context.WithTimeout(ctx, c.opts.ConnectTimeout)
	defer cancel()
	ch, reqs, err := c.startSession(ctx, "subsystem", "sftp")
	if err != nil {
		return nil, err
	}
	if ch == nil {
		return nil, &transport.Error{Kind: errors.ErrUnsupported, Hint: "the server has no SFTP"}
	}
	c.bg.Go(func() { xssh.DiscardRequests(reqs) })
	c.bg.Go(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) })
	gone := make(chan struct{})
	end := sync.OnceFunc(func() { close(gone) })
	in := &meter{r: ch, end: end}
	client, err := do(ctx, c, func() (*sftp.Client, error) {
		return sftp.NewClientPipe(in, &outgoing{ch, end}, sftp.MaxPacketUnchecked(packet))
	}, func(s *sftp.Client) { _ = s.Close() })
	if err != nil {
		c.bg.Go(func() { _ = ch.Close() })
		return nil, c.explain(ctx, err)
	}
	s := &sftpClient{Client: client, ch: ch, packet: packet, window: min(64, maxWindow/packet), gone: gone, end: end, in: in}
	c.bg.Go(func() {
		defer end()
		_ = client.Wait()
	})
	return s, nil
}

// outgoing is where the requests of a session are written.
type outgoing struct {
	io.WriteCloser
	end func() // called when nothing more can be written, before the error is returned
}

// Write implements io.Writer.
func (o *outgoing) Write(p []byte) (int, error) {
	n, err := o.WriteCloser.Write(p)
	if err != nil {
		o.end()
	}
	return n, err
}

// drop ends the session without waiting for the server.
func (s *sftpClient) drop(c *conn) { c.bg.Go(func() { _ = s.ch.Close() }) }

func infoOf(dir, name string, fi fs.FileInfo) transport.FileInfo {
	return transport.FileInfo{Name: name, Native: join(dir, name), Size: fi.Size(), Mode: fi.Mode(), ModTime: fi.ModTime().Round(time.Second)}
}

func sortByName(list []transport.FileInfo) {
	slices.SortFunc(list, func(a, b transport.FileInfo) int { return cmp.Compare(a.Name, b.Name) })
}

// maxDir bounds what a server may send while a directory is listed. Each name
// comes twice, with its attributes, once in a line as "ls -l" prints it.
const maxDir = 4 * maxAnswer

// errTooLong ends a list that is longer than anybody has asked for.
var errTooLong = errors.New("the list of the directory has no end")

// readDir lists a directory. SFTP calls a file that is no directory missing. A
// list of more than limit bytes is ErrProtocol: the server says when it ends.
func (s *sftpClient) readDir(ctx context.Context, dir string, limit int64) ([]fs.FileInfo, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.in.allow(limit, func() { cancel(errTooLong) })()
	entries, err := s.ReadDirContext(ctx, dir)
	if context.Cause(ctx) == errTooLong {
		return nil, &transport.Error{Kind: transport.ErrProtocol, Err: errTooLong}
	}
	if err == nil || ctx.Err() != nil {
		return entries, err
	}
	if fi, serr := s.Stat(dir); serr == nil && !fi.IsDir() {
		return nil, &transport.Error{Kind: transport.ErrRejected, Err: err, Hint: "not a directory"}
	}
	return nil, err
}

// mkdirAll makes dir and the missing ones above it. It sets changed before it makes
// any.
func (s *sftpClient) mkdirAll(ctx context.Context, dir string, perm fs.FileMode, changed *bool) error {
	var missing []string
	for d := dir; ; d = path.Dir(d) {
		fi, err := s.Stat(d)
		if err == nil && !fi.IsDir() {
			return &transport.Error{Kind: fs.ErrExist, Hint: d + " is not a directory"}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || d == "/" {
			return err
		}
		missing = append(missing, d)
	}
	// A path through a file looks like a missing one.
	for i, d := range slices.Backward(missing) {
		if err := ctx.Err(); err != nil {
			return err
		}
		*changed = true
		if err := s.Mkdir(d); err != nil {
			if fi, serr := s.Stat(d); serr == nil && fi.IsDir() { // somebody else was faster
				missing = slices.Delete(missing, i, i+1)
				continue
			}
			if _, serr := s.Lstat(d); serr == nil {
				return &transport.Error{Kind: fs.ErrExist, Err: err, Code: sftpErrCode(err), Hint: d + " is a link that leads nowhere"}
			}
			return s.noSpace(d, 1, err)
		}
	}
	for _, d := range missing {
		if err := s.Chmod(d, perm); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file or an empty directory. It sets changed before it does.
func (s *sftpClient) remove(name string, changed *bool) error {
	fi, err := s.Lstat(name)
	if err != nil {
		return err
	}
	*changed = true
	if !fi.IsDir() {
		// Remove would go on to try the name as a directory, and mix the answers up.
		return s.readOnly(name, s.Client.Remove(name))
	}
	err = s.RemoveDirectory(name)
	if err == nil {
		return nil
	}
	if entries, lerr := s.readDir(context.Background(), name, maxDir); errors.Is(lerr, errTooLong) || lerr == nil && len(entries) > 0 {
		return &transport.Error{Kind: fs.ErrExist, Err: err, Code: sftpErrCode(err), Hint: "the directory is not empty"}
	}
	return s.readOnly(name, err)
}

// rename moves a file over another one.
func (s *sftpClient) rename(from, to string) error {
	if _, ok := s.HasExtension("posix-rename@openssh.com"); ok {
		return s.PosixRename(from, to)
	}
	err := s.Rename(from, to)
	if err == nil {
		return nil
	}
	if _, lerr := s.Lstat(to); lerr != nil {
		return err
	}
	if err := s.Client.Remove(to); err != nil {
		return err
	}
	return s.Rename(from, to)
}

// openFile opens a file for reading, if it is one.
func (s *sftpClient) openFile(name string) (*sftp.File, error) {
	fi, err := s.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return nil, &transport.Error{Kind: fs.ErrExist, Err: fmt.Errorf("%s is a directory", name)}
	}
	return s.OpenFile(name, os.O_RDONLY)
}
