package channel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestIdentity(t *testing.T) {
	m, a, err := NewIdentity(strings.Repeat("long-name-", 20))
	require.NoError(t, err)
	m2, _, err := NewIdentity("x")
	require.NoError(t, err)
	require.Equal(t, a.Fingerprint(), m.Peer())
	require.Equal(t, m.Fingerprint(), a.Peer())
	require.NotEqual(t, m.c.ca.Raw, m2.c.ca.Raw, "an authority per identity")
	require.NotEqual(t, m.c.secret, m2.c.secret)
	require.Equal(t, m.c.secret, a.c.secret)
	require.Len(t, m.c.secret, secretLen)
	for _, c := range []*credentials{m.c, a.c} {
		leaf := c.cert.Leaf
		require.NoError(t, leaf.CheckSignatureFrom(c.ca))
		require.False(t, leaf.IsCA)
		require.Equal(t, 2000, leaf.NotBefore.Year())
		require.Equal(t, "9999-12-31T23:59:59Z", leaf.NotAfter.Format("2006-01-02T15:04:05Z07:00"))
		require.ElementsMatch(t, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, leaf.ExtKeyUsage)
		require.Equal(t, 256, leaf.PublicKey.(*ecdsa.PublicKey).Curve.Params().BitSize)
	}
}

func TestBootstrapRoundTrip(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	om, oa := ownKeys(t)
	for _, pair := range []struct {
		m *ManagerCredentials
		a *AgentCredentials
	}{{m, a}, {om, oa}} {
		ab, err := pair.a.MarshalBootstrap()
		require.NoError(t, err)
		mb, err := pair.m.MarshalBootstrap()
		require.NoError(t, err)
		a2, err := ParseAgentBootstrap(ab)
		require.NoError(t, err)
		m2, err := ParseManagerBootstrap(mb)
		require.NoError(t, err)
		require.Equal(t, pair.a.Fingerprint(), a2.Fingerprint())
		require.Equal(t, pair.m.Peer(), m2.Peer())
		everyOperation(t, newRig(t, func(r *rig) { r.client.Credentials, r.server.Credentials = m2, a2 }))

		_, err = ParseAgentBootstrap(mb)
		require.ErrorIs(t, err, ErrMalformed, "the other side's credentials")
		for name, change := range map[string]func(map[string]any){
			"version": func(b map[string]any) { b["v"] = 2 },
			"unknown": func(b map[string]any) { b["x"] = 1 },
			"no pin":  func(b map[string]any) { b["peer"] = strings.Repeat("0", 64) },
			"own pin": func(b map[string]any) { b["peer"] = pair.a.Fingerprint().String() },
			"secret":  func(b map[string]any) { b["secret"] = "AAAA" },
			"key":     func(b map[string]any) { var o map[string]any; json.Unmarshal(mb, &o); b["key"] = o["key"] },
			"no cert": func(b map[string]any) { delete(b, "cert") },
			"bad CA":  func(b map[string]any) { b["ca"] = "x" },
		} {
			var b map[string]any
			require.NoError(t, json.Unmarshal(ab, &b))
			change(b)
			bad, err := json.Marshal(b)
			require.NoError(t, err)
			_, err = ParseAgentBootstrap(bad)
			require.ErrorIs(t, err, ErrMalformed, name)
			require.NotContains(t, err.Error(), "PRIVATE KEY")
		}
		_, err = ParseAgentBootstrap(append(ab, "{}"...))
		require.ErrorIs(t, err, ErrMalformed)
		_, err = ParseAgentBootstrap(make([]byte, maxBootstrap+1))
		require.ErrorIs(t, err, ErrTooLarge)
	}
}

func TestOwnKeyNeedsAPin(t *testing.T) {
	k, err := NewOwnKey()
	require.NoError(t, err)
	_, err = k.Manager(Fingerprint{})
	require.ErrorIs(t, err, ErrTrust)
	_, err = k.Agent(k.Fingerprint())
	require.ErrorIs(t, err, ErrTrust)
	f, err := ParseFingerprint(k.Fingerprint().String())
	require.NoError(t, err)
	require.Equal(t, k.Fingerprint(), f)
	_, err = ParseFingerprint(strings.ToUpper(f.String()))
	require.ErrorIs(t, err, ErrMalformed)
}

// TestSecretsDoNotPrint tries every way that a careless caller might.
func TestSecretsDoNotPrint(t *testing.T) {
	m, a, err := NewIdentity("n")
	require.NoError(t, err)
	own, err := NewOwnKey()
	require.NoError(t, err)
	canary := secret("canary-" + strings.Repeat("s", 25))
	m.c.secret, a.c.secret = canary, canary
	private := m.c.cert.PrivateKey.(*ecdsa.PrivateKey)
	raw, err := private.Bytes()
	require.NoError(t, err)

	type holder struct {
		Public  *ManagerCredentials
		Value   ManagerCredentials
		private ManagerCredentials
		agent   *AgentCredentials
		key     OwnKey
		s       secret
	}
	h := holder{m, *m, *m, a, *own, canary}
	client, server := &Client{Credentials: m}, &Server{Credentials: a}
	var b bytes.Buffer
	text := slog.New(slog.NewTextHandler(&b, nil))
	jsonLog := slog.New(slog.NewJSONHandler(&b, nil))
	values := []any{m, *m, a, *a, own, *own, canary, h.Public, h.Value, h.key, client.Credentials, server.Credentials}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%c", "%U"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		text.Info("x", "v", v)
		jsonLog.Info("x", "v", v)
		j, err := json.Marshal(v)
		require.NoError(t, err)
		b.Write(j)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%d"} {
		h.s = nil // fmt shows an unexported field of a caller's own; ours are behind pointers
		fmt.Fprintf(&b, verb+"\n", h)
		fmt.Fprintf(&b, verb+"\n", &h)
	}
	out := b.String()
	for _, leak := range []string{
		string(canary), fmt.Sprintf("%x", []byte(canary)), fmt.Sprintf("%X", []byte(canary)), fmt.Sprint([]byte(canary)),
		strings.Trim(fmt.Sprint([]byte(canary)), "[]"), fmt.Sprintf("%x", raw), new(big.Int).SetBytes(raw).String(), "PRIVATE",
	} {
		require.NotContains(t, out, leak)
	}
}

// A name that is cut to what a certificate holds stays text.
func TestLongNames(t *testing.T) {
	for _, name := range []string{strings.Repeat("\u00e4", 40), strings.Repeat("\u6771", 30), "bad \xff", strings.Repeat("x", 100)} {
		m, _, err := NewIdentity(name)
		require.NoError(t, err, name)
		cn := m.c.cert.Leaf.Subject.CommonName
		require.True(t, utf8.ValidString(cn), cn)
		require.LessOrEqual(t, len(cn), 64)
		require.True(t, strings.HasPrefix(cn, "manager of "), cn)
	}
}

// A client that means one start of an agent never speaks to another.
func TestGivenEpochIsKept(t *testing.T) {
	r := newRig(t, nil)
	c := &Client{Credentials: r.client.Credentials, Dial: r.client.Dial, Epoch: strings.Repeat("a", epochLen)}
	for range 2 {
		_, err := c.Heartbeat(testContext(t), nil)
		require.ErrorIs(t, err, ErrEpoch)
	}
	require.NoError(t, c.Close(testContext(t)))
	require.Zero(t, r.agent.called("Heartbeat"))
}
