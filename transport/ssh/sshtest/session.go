package sshtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/pkg/sftp"
	xssh "golang.org/x/crypto/ssh"
)

// serve speaks SSH on one line until it ends, and waits for what it started
// except for commands, which the server as a whole waits for.
func (s *Server) serve(c *faultConn) {
	conn, chans, reqs, err := xssh.NewServerConn(c, s.serverConfig())
	if err != nil {
		s.log("no login", "err", err)
		return
	}
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { xssh.DiscardRequests(reqs) }) // answers keepalives with a refusal, as OpenSSH does
	for nc := range chans {
		switch {
		case nc.ChannelType() == "session" && !s.cfg.NoSessions:
			ch, reqs, err := nc.Accept()
			if err == nil {
				wg.Go(func() { s.session(ch, reqs, c) })
			}
		case nc.ChannelType() == "direct-tcpip":
			wg.Go(func() { s.directTCP(nc) })
		case nc.ChannelType() == "direct-streamlocal@openssh.com":
			wg.Go(func() { s.directUnix(nc) })
		case nc.ChannelType() == "session":
			_ = nc.Reject(xssh.Prohibited, "no sessions")
		default:
			_ = nc.Reject(xssh.UnknownChannelType, "unknown channel type")
		}
	}
	_ = conn.Close()
}

// session serves one session channel (RFC 4254, section 6).
func (s *Server) session(ch xssh.Channel, reqs <-chan *xssh.Request, c net.Conn) {
	env := []string{}
	var proc *exec.Cmd
	started := false
	for req := range reqs {
		ok := false
		// The answer to a request that starts something goes out first: what it
		// starts may end, and close the channel, before anything else is sent.
		accept := func() {
			ok, started = true, true
			if req.WantReply {
				_ = req.Reply(true, nil)
			}
			req.WantReply = false
		}
		switch req.Type {
		case "env":
			var m struct{ Name, Value string }
			if ok = xssh.Unmarshal(req.Payload, &m) == nil; ok {
				env = append(env, m.Name+"="+m.Value)
			}
		case "exec", "subsystem":
			var m struct{ What string }
			if started || xssh.Unmarshal(req.Payload, &m) != nil {
				break
			}
			if s.endsSession() {
				_ = ch.Close()
				continue
			}
			if req.Type == "exec" && s.hangs() {
				continue
			}
			isSFTP := s.cfg.SFTPOnly || (req.Type == "subsystem" && m.What == "sftp")
			if isSFTP && !s.cfg.NoSFTP {
				accept()
				s.wg.Go(func() { s.sftp(ch) })
			} else if req.Type == "exec" {
				accept()
				proc = s.command(m.What, ch, env, c)
			}
		case "signal":
			var m struct{ Name string }
			if ok = xssh.Unmarshal(req.Payload, &m) == nil && proc != nil && proc.Process != nil; ok {
				signalGroup(proc.Process.Pid, m.Name)
			}
		}
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
	}
	if !started {
		_ = ch.Close()
	}
}

func (s *Server) hangs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hanging
}

func (s *Server) sftp(ch xssh.Channel) {
	defer ch.Close()
	srv, err := sftp.NewServer(&sftpChannel{Channel: ch, s: s}, sftp.WithServerWorkingDirectory(s.cfg.Home))
	if err != nil {
		return
	}
	err = srv.Serve()
	status := uint32(0)
	if err != nil && !errors.Is(err, io.EOF) {
		status = 255
	}
	_, _ = ch.SendRequest("exit-status", false, xssh.Marshal(struct{ Status uint32 }{status}))
}

// command starts a command line under the login shell and reports its end.
func (s *Server) command(line string, ch xssh.Channel, env []string, c net.Conn) *exec.Cmd {
	s.mu.Lock()
	s.commands = append(s.commands, line)
	s.mu.Unlock()
	s.log("exec", "command", line)
	cmd := exec.CommandContext(s.ctx, s.cfg.Shell, "-c", line)
	cmd.Dir = s.cfg.Home
	cmd.Env = append([]string{
		"HOME=" + s.cfg.Home, "USER=" + s.cfg.User, "LOGNAME=" + s.cfg.User, "SHELL=" + s.cfg.Shell,
		"PATH=" + os.Getenv("PATH"), "SSH_CONNECTION=" + connectionOf(c), marker + s.id,
	}, env...)
	cmd.Env = append(cmd.Env, s.cfg.Env...)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = 5 * time.Second // for daemons that keep the output open
	ownSession(cmd)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(ch.Stderr(), err)
		_, _ = ch.SendRequest("exit-status", false, xssh.Marshal(struct{ Status uint32 }{127}))
		_ = ch.Close()
		return nil
	}
	s.wg.Go(func() {
		_, _ = io.Copy(stdin, ch)
		_ = stdin.Close()
	})
	s.wg.Go(func() {
		_ = cmd.Wait()
		// The end of output comes before the exit status, as OpenSSH sends them.
		_ = ch.CloseWrite()
		sendExit(ch, cmd.ProcessState)
		_ = ch.Close()
	})
	return cmd
}

// connectionOf is the value of SSH_CONNECTION.
func connectionOf(c net.Conn) string {
	rh, rp, err1 := net.SplitHostPort(c.RemoteAddr().String())
	lh, lp, err2 := net.SplitHostPort(c.LocalAddr().String())
	if err1 != nil || err2 != nil {
		return "UNKNOWN 65535 UNKNOWN 65535"
	}
	return rh + " " + rp + " " + lh + " " + lp
}

// sendExit sends the exit status or signal (RFC 4254, section 6.10).
func sendExit(ch xssh.Channel, st *os.ProcessState) {
	if sig := signalOf(st); sig != "" {
		_, _ = ch.SendRequest("exit-signal", false, xssh.Marshal(struct {
			Name      string
			Core      bool
			Msg, Lang string
		}{Name: sig}))
		return
	}
	_, _ = ch.SendRequest("exit-status", false, xssh.Marshal(struct{ Status uint32 }{uint32(st.ExitCode())}))
}

// directTCP serves a forwarded TCP connection (RFC 4254, section 7.2).
func (s *Server) directTCP(nc xssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := xssh.Unmarshal(nc.ExtraData(), &m); err != nil || s.cfg.NoTCP {
		_ = nc.Reject(xssh.Prohibited, "prohibited")
		return
	}
	s.direct(nc, "tcp", net.JoinHostPort(m.Host, fmt.Sprint(m.Port)))
}

// directUnix serves a forwarded Unix socket (OpenSSH PROTOCOL, section 2.4).
func (s *Server) directUnix(nc xssh.NewChannel) {
	var m struct {
		Path      string
		Reserved0 string
		Reserved1 uint32
	}
	if err := xssh.Unmarshal(nc.ExtraData(), &m); err != nil || s.cfg.NoStreamLocal {
		_ = nc.Reject(xssh.Prohibited, "prohibited")
		return
	}
	s.direct(nc, "unix", m.Path)
}

func (s *Server) direct(nc xssh.NewChannel, network, addr string) {
	out, err := (&net.Dialer{}).DialContext(s.ctx, network, addr)
	if err != nil {
		_ = nc.Reject(xssh.ConnectionFailed, "open failed")
		return
	}
	defer out.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	// The requests end with the channel; what is still on its way out is then
	// pointless.
	wg.Go(func() {
		xssh.DiscardRequests(reqs)
		_ = out.Close()
	})
	wg.Go(func() {
		_, _ = io.Copy(out, ch)
		if cw, ok := out.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
	})
	_, _ = io.Copy(ch, out)
	_ = ch.CloseWrite()
	_ = ch.Close()
}
