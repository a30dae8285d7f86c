package channel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPeersAreVerified(t *testing.T) {
	r := newRig(t, func(r *rig) { r.server.HandshakeTimeout = 20 * time.Second })
	call := func(m *ManagerCredentials) error {
		c := &Client{Credentials: m, Dial: r.client.Dial}
		_, err := c.Heartbeat(testContext(t), nil)
		require.NoError(t, c.Close(testContext(t)))
		return err
	}
	good := r.manager.c
	with := func(change func(*credentials)) *ManagerCredentials {
		c := *good
		change(&c)
		return &ManagerCredentials{&c}
	}
	require.NoError(t, call(r.manager))

	other, _, err := NewIdentity("other")
	require.NoError(t, err)
	t.Run("client refuses another pin", func(t *testing.T) {
		require.ErrorIs(t, call(with(func(c *credentials) { c.peer = other.Peer() })), ErrTrust)
	})
	t.Run("client refuses another authority", func(t *testing.T) {
		require.ErrorIs(t, call(with(func(c *credentials) { c.ca = other.c.ca })), ErrTrust)
	})
	t.Run("server refuses another authority", func(t *testing.T) {
		// Sent by force: by default Go would keep it back.
		require.ErrorIs(t, call(with(func(c *credentials) { c.cert = other.c.cert })), ErrAuth)
	})
	t.Run("server refuses the agent's own certificate", func(t *testing.T) {
		require.ErrorIs(t, call(with(func(c *credentials) { c.cert = r.server.Credentials.c.cert })), ErrAuth)
	})
	t.Run("same authority, another key", func(t *testing.T) {
		m, a := twoManagers(t)
		r2 := newRig(t, func(r *rig) { r.server.Credentials = a; r.client.Credentials = m })
		_, err := r2.client.Heartbeat(testContext(t), nil)
		require.ErrorIs(t, err, ErrAuth)
		require.Empty(t, r2.agent.calls)
	})
	refused := func(adjust func(*tls.Config)) {
		c, err := r.dialRaw(r.manager, adjust)
		if err == nil { // TLS 1.3: the refusal comes with the first read
			_, err = c.br.ReadByte()
		}
		require.Error(t, err)
		require.True(t, isRemoteAlert(err), "refused by the server: %v", err)
	}
	t.Run("no certificate", func(t *testing.T) {
		refused(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
		})
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		refused(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			c.VerifyConnection = nil
		})
	})
	t.Run("client refuses TLS 1.2", func(t *testing.T) {
		l := newPipeListener(false)
		cfg := r.server.Credentials.c.serverTLS()
		cfg.MinVersion, cfg.MaxVersion, cfg.VerifyConnection = tls.VersionTLS12, tls.VersionTLS12, nil
		go func() {
			if raw, err := l.Accept(); err == nil {
				tls.Server(raw, cfg).Handshake()
				raw.Close()
			}
		}()
		c := &Client{Credentials: r.manager, Dial: l.dial}
		_, err := c.Heartbeat(testContext(t), nil)
		require.ErrorIs(t, err, ErrAuth)
		require.NoError(t, c.Close(testContext(t)))
		l.Close()
	})
	t.Run("HTTP/2", func(t *testing.T) {
		refused(func(c *tls.Config) { c.NextProtos = []string{"h2"} })
	})
	t.Run("no resumption", func(t *testing.T) {
		cache := new(sessions)
		c, err := r.dialRaw(r.manager, func(c *tls.Config) { c.ClientSessionCache, c.SessionTicketsDisabled = cache, false })
		require.NoError(t, err)
		_, _, _ = c.send(plain("GET", "/soap?wsdl", nil, nil)) // tickets come before the answer
		require.NotZero(t, cache.asked, "the client would resume")
		require.Zero(t, cache.kept, "the server gave it a ticket")
	})
	require.Equal(t, 1, r.agent.called("Heartbeat"))
}

// sessions counts what a client that resumes sessions does with them.
type sessions struct{ asked, kept int }

func (s *sessions) Get(string) (*tls.ClientSessionState, bool) { s.asked++; return nil, false }
func (s *sessions) Put(string, *tls.ClientSessionState)        { s.kept++ }

// twoManagers gives an agent's credentials and those of a manager that is not
// the pinned one, though the same authority signed its certificate: the CA key
// is minted anew here, because NewIdentity keeps none.
func twoManagers(t *testing.T) (*ManagerCredentials, *AgentCredentials) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	self := template("ca", "")
	self.IsCA, self.KeyUsage, self.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	ca, err := sign(self, self, &key.PublicKey, key)
	require.NoError(t, err)
	agent, err := newLeaf(template("a", agentName), ca, key)
	require.NoError(t, err)
	pinned, err := newLeaf(template("m", managerName), ca, key)
	require.NoError(t, err)
	intruder, err := newLeaf(template("m", managerName), ca, key)
	require.NoError(t, err)
	s := bytes.Repeat([]byte{7}, secretLen)
	return &ManagerCredentials{&credentials{role: roleManager, cert: intruder, ca: ca, peer: fingerprintOf(agent.Leaf), peerName: agentName, secret: s}},
		&AgentCredentials{&credentials{role: roleAgent, cert: agent, ca: ca, peer: fingerprintOf(pinned.Leaf), peerName: managerName, secret: s}}
}

// TestOwnKeysArePinned: without an authority the pin is all, so it must hold.
func TestOwnKeysArePinned(t *testing.T) {
	_, a := ownKeys(t)
	intruder, err := NewOwnKey()
	require.NoError(t, err)
	m, err := intruder.Manager(a.Fingerprint())
	require.NoError(t, err)
	r := newRig(t, func(r *rig) { r.client.Credentials, r.server.Credentials = m, a })
	_, err = r.client.Heartbeat(testContext(t), nil)
	require.ErrorIs(t, err, ErrAuth)
	wrong, err := intruder.Manager(fingerprintOf(m.c.cert.Leaf).flip())
	require.NoError(t, err)
	c := &Client{Credentials: wrong, Dial: r.client.Dial}
	_, err = c.Heartbeat(testContext(t), nil)
	require.ErrorIs(t, err, ErrTrust)
	require.NoError(t, c.Close(testContext(t)))
	require.Empty(t, r.agent.calls)
}

func (f Fingerprint) flip() Fingerprint { f[0] ^= 1; return f }

// TestClocks: certificates made on one side are valid on a machine that believes
// it is 1970, or 9000, because the time that is checked against is fixed.
func TestClocks(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	for _, cfg := range []*tls.Config{m.c.clientTLS(agentName), a.c.serverTLS()} {
		at := cfg.Time()
		require.True(t, at.After(certNotBefore) && at.Before(certNotAfter))
		require.Equal(t, at, cfg.Time(), "it does not run")
	}
	// What a check against such a clock would have said.
	pool := x509.NewCertPool()
	pool.AddCert(m.c.ca)
	_, err = a.c.cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: time.Unix(0, 0)})
	require.Error(t, err, "the fixed time is what makes 1970 work")
	_, err = a.c.cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)})
	require.NoError(t, err)
}
