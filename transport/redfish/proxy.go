package redfish

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// reach opens the network connection, by a proxy where one was asked for.
func (s *session) reach(ctx context.Context) (net.Conn, error) {
	if s.opts.Proxy == nil {
		return s.dial(ctx, "tcp", s.addr)
	}
	target := &http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: s.host, Path: "/"}, Host: s.host, Header: http.Header{}}
	proxy, err := s.opts.Proxy(target)
	if err != nil {
		return nil, &transport.Error{Kind: transport.ErrInvalid, Err: err, Hint: "Options.Proxy gives no proxy that can be used"}
	}
	if proxy == nil {
		return s.dial(ctx, "tcp", s.addr)
	}
	if proxy.Scheme != "http" {
		return nil, &transport.Error{Kind: errors.ErrUnsupported, Hint: fmt.Sprintf("proxies are reached by http, not by %s", proxy.Scheme)}
	}
	port := proxy.Port()
	if port == "" {
		port = "80"
	}
	conn, err := s.dial(ctx, "tcp", net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if err := connectBy(ctx, conn, s.addr, proxy.User); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// connectBy asks a proxy for a tunnel (RFC 9110, section 9.3.6).
func connectBy(ctx context.Context, conn net.Conn, addr string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
		req.Header["Proxy-Authorization"] = req.Header["Authorization"]
		delete(req.Header, "Authorization")
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	// One byte at a time: what follows the answer is the target's.
	answer, err := http.ReadResponse(bufio.NewReaderSize(&oneByte{conn, 64 << 10}, 16), req)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return &transport.Error{Kind: transport.ErrUnreachable, Err: &statusError{status: answer.StatusCode}, Hint: "the proxy makes no connection to the target"}
	}
	return nil
}

// oneByte reads single bytes, up to a limit.
type oneByte struct {
	net.Conn
	left int
}

func (o *oneByte) Read(p []byte) (int, error) {
	if o.left == 0 {
		return 0, errors.New("the proxy's answer is too long")
	}
	o.left--
	return o.Conn.Read(p[:1])
}
