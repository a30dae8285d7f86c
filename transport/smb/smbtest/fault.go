package smbtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/hirochachacha/go-smb2"
	//lint:ignore SA1019 The hash of NTLM is what it is (MS-NLMP, 3.3.1).
	"golang.org/x/crypto/md4"
)

// Account is the state of the account.
type Account string

// The states of the account, and what a login with the right password ends in.
const (
	AccountActive             Account = "active"
	AccountDisabled           Account = "disabled"             // STATUS_ACCOUNT_DISABLED, 0xC0000072
	AccountLocked             Account = "locked"               // STATUS_ACCOUNT_LOCKED_OUT, 0xC0000234
	AccountMustChangePassword Account = "must change password" // STATUS_PASSWORD_MUST_CHANGE, 0xC0000224
)

// SetAccount changes the state of the account for logins from now on.
func (s *Server) SetAccount(a Account) error {
	flags, changed := "U", uint32(0x5F000000)
	switch a {
	case AccountActive:
	case AccountDisabled:
		flags = "UD"
	case AccountLocked:
		flags = "UL"
	case AccountMustChangePassword:
		changed = 0
	default:
		return fmt.Errorf("smbtest: no such state of an account: %q", a)
	}
	h := md4.New()
	for _, u := range utf16.Encode([]rune(s.cfg.Password)) {
		_, _ = h.Write([]byte{byte(u), byte(u >> 8)})
	}
	// smbpasswd(5)
	text := fmt.Sprintf("%s:0:%s:%X:[%-11s]:LCT-%08X:\n", s.cfg.account(), strings.Repeat("X", 32), h.Sum(nil), flags, changed)
	path := filepath.Join(s.dir, "private", "passwd")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("smbtest: %w", err)
	}
	return os.Rename(path+".new", path)
}

// hold is a file that another client has open.
type hold struct {
	session *smb2.Session
	conn    net.Conn
	once    sync.Once
}

func (h *hold) release() {
	h.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = h.session.WithContext(ctx).Logoff() // which closes what the session has open
		_ = h.conn.Close()
	})
}

// Hold opens a file of a share as another client that lets nobody remove or
// rename it: both then fail with STATUS_SHARING_VIOLATION (0xC0000043), as they do
// with many a file in use on Windows. Reading and writing go on. The connection
// goes past the proxy: neither CloseConnections nor Stall touches it.
func (s *Server) Hold(share, name string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.smbd.addr)
	if err != nil {
		return nil, fmt.Errorf("smbtest: hold %s: %w", name, err)
	}
	d := &smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.cfg.User, Password: s.cfg.Password, Domain: s.cfg.Domain}}
	session, err := d.DialContext(ctx, c)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("smbtest: hold %s: %w", name, err)
	}
	h := &hold{session: session, conn: c}
	fsys, err := session.Mount(share)
	if err == nil {
		var f *smb2.File
		if f, err = fsys.Open(name); err == nil { // without FILE_SHARE_DELETE
			runtime.SetFinalizer(f, nil) // or it would be closed once nothing refers to it
		}
	}
	if err != nil {
		h.release()
		return nil, fmt.Errorf("smbtest: hold %s: %w", name, err)
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.holds[h] = true
	}
	s.mu.Unlock()
	if closed {
		h.release()
		return nil, fmt.Errorf("smbtest: hold %s: %w", name, net.ErrClosed)
	}
	return func() {
		h.release()
		s.mu.Lock()
		delete(s.holds, h)
		s.mu.Unlock()
	}, nil
}

// Pin keeps a file of a share from being removed, as Windows does with a program
// that runs: STATUS_CANNOT_DELETE (0xC0000121), also for a client that tries to
// clear the read-only attribute first. It can still be read. Unlike on Windows
// it cannot be renamed either: see [Server.Execute]. What runs locally may do as it
// likes.
func (s *Server) Pin(share, name string) (release func() error, err error) {
	path := s.below(share, name)
	if path == "" {
		return nil, fmt.Errorf("smbtest: pin %s: %w", name, os.ErrNotExist)
	}
	undo, err := s.smbd.pin(path)
	if err != nil {
		return nil, fmt.Errorf("smbtest: pin %s: %w", name, err)
	}
	return sync.OnceValue(undo), nil
}

// Execute has a file of a share be as Windows has a program that runs: it can be renamed,
// and under no name be removed (STATUS_CANNOT_DELETE, 0xC0000121), also by a client that
// clears the read-only attribute first. Two things differ: it can be overwritten, and be
// removed by a client that asks for that when it opens the file (FILE_DELETE_ON_CLOSE).
// Locally it is somebody else's for as long as that.
func (s *Server) Execute(share, name string) (release func() error, err error) {
	path := s.below(share, name)
	if path == "" {
		return nil, fmt.Errorf("smbtest: execute %s: %w", name, os.ErrNotExist)
	}
	undo, err := execute(path)
	if err != nil {
		return nil, fmt.Errorf("smbtest: execute %s: %w", name, err)
	}
	return sync.OnceValue(undo), nil
}
