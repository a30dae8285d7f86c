package redfishtest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// client is an HTTP client that connects to the host of one URL and to no other,
// whatever it answers.
func (s *Server) client(u *url.URL) *http.Client {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	host := net.JoinHostPort(u.Hostname(), port)
	dial := s.cfg.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	t := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: s.cfg.ImageRoots, InsecureSkipVerify: s.cfg.ImageRoots == nil},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr != host {
				return nil, fmt.Errorf("redfishtest: %s is not %s", addr, host)
			}
			return dial(ctx, network, addr)
		},
		ResponseHeaderTimeout: time.Minute,
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// imageURL is the URL of an image, or nil if a service cannot fetch it.
func imageURL(uri string) *url.URL {
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" || u.User != nil || !strings.EqualFold(u.Scheme, "http") && !strings.EqualFold(u.Scheme, "https") {
		return nil
	}
	return u
}

// fetch gets a file and writes it to w. Its length must be what Content-Length
// says.
func (s *Server) fetch(ctx context.Context, uri string, w io.Writer) error {
	if err := s.hold(ctx); err != nil {
		return err
	}
	if s.fault(PullFails, nil) != nil {
		return fmt.Errorf("redfishtest: no route to %s", uri)
	}
	if f := s.fault(NeverPulls, nil); f != nil {
		d := f.Delay
		if d == 0 {
			d = never
		}
		if !f.lasts(ctx, d) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("redfishtest: gave up asking for %s", uri)
		}
	}
	if s.fault(PullMissing, nil) != nil {
		uri += ".missing"
	}
	u := imageURL(uri)
	if u == nil {
		return fmt.Errorf("redfishtest: %q is no URL of an image", uri)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	c := s.client(u)
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("redfishtest: %s: %s", uri, resp.Status)
	}
	if f := s.fault(PullTruncated, nil); f != nil {
		n, err := io.CopyN(w, resp.Body, f.Bytes)
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("redfishtest: %s after %d bytes: %w", uri, n, err)
	}
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return fmt.Errorf("redfishtest: %s after %d bytes: %w", uri, n, err)
	}
	s.log("fetched", "uri", uri, "bytes", n)
	return nil
}

// pull fetches and checks an image.
func (s *Server) pull(ctx context.Context, uri, name string) (*content, error) {
	c := newChecker()
	defer c.discard()
	if err := s.fetch(ctx, uri, c); err != nil {
		s.log("the image cannot be fetched", "err", err)
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, bad(s.cfg.Profile.downloadFailure())
	}
	if name == "" {
		u := imageURL(uri)
		name = u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	}
	return c.finish(name), nil
}

func (p Profile) downloadFailure() string {
	switch {
	case p == RMC:
		return "FirmwareUpdateDownloadFailure"
	case p.ilo() > 0:
		return "UnableToDownloadImage"
	}
	return "TransferFailed"
}
