package channel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
	"sync/atomic"
	"time"
)

// Names in the certificates. They are the same for every node: what tells nodes
// apart is the certificate authority and the pin, both minted per node.
const (
	agentName   = "agent.roundsman.internal"
	managerName = "manager.roundsman.internal"

	// callbackDomain is below what an agent calls its manager by when it is the
	// agent that connects: one listener serves the agents of many nodes, and has to
	// know in the handshake which of its identities is meant.
	callbackDomain = ".callback.roundsman.internal"
)

// callbackName is the server name of the manager with this key. It is public, and
// says no more than the certificate does.
func callbackName(manager Fingerprint) string { return manager.String()[:32] + callbackDomain }

const secretLen = 32 // bytes

// Certificates are valid at any time that a clock can show, because a server
// with an empty battery boots in 1970 and a lease, not a date, ends a session.
// RFC 5280, 4.1.2.5: 9999-12-31T23:59:59Z means "no expiration".
var (
	certNotBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	certNotAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	verifyTime    = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Fingerprint is the SHA-256 of a certificate's SubjectPublicKeyInfo. It is not
// secret, but it must travel where no one can change it.
type Fingerprint [sha256.Size]byte

// ParseFingerprint reads the form that String gives.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	if !isLowerHex(s, 2*len(f)) {
		return f, &Error{Op: "parse fingerprint", Kind: ErrMalformed}
	}
	_, err := hex.Decode(f[:], []byte(s))
	return f, err
}

// String gives 64 lower-case hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

func fingerprintOf(cert *x509.Certificate) Fingerprint {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// credentials is what one side holds. The exported types hold it by pointer, so
// that fmt cannot reach the keys by reflection, not even through a caller's
// unexported field.
type credentials struct {
	role     string
	cert     tls.Certificate // Leaf is set
	ca       *x509.Certificate
	peer     Fingerprint
	late     *atomic.Pointer[Fingerprint] // in place of peer, if not nil; see OwnKey.AwaitAgent
	peerName string
	secret   secret // empty where the bootstrap was not confidential
}

// ManagerCredentials identify the manager to one agent, and that agent to the
// manager. They are immutable but for Pin, safe for concurrent use, and print redacted.
type ManagerCredentials struct{ c *credentials }

// AgentCredentials identify one agent to its manager, and the manager to it.
// They are immutable, safe for concurrent use, and print redacted.
type AgentCredentials struct{ c *credentials }

// NewIdentity mints the identity of one node for one session: a P-256
// certificate authority, a leaf for each side, and a secret that keys message
// authentication together with the TLS connection. The authority's key is
// dropped before NewIdentity returns, so that no further certificate can exist.
//
// The agent's half contains a private key and the secret. Use NewIdentity only
// where it reaches the agent confidentially, as over SSH. Elsewhere let each
// side make a [NewOwnKey]. The node's name is for people only.
func NewIdentity(node string) (*ManagerCredentials, *AgentCredentials, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, &Error{Op: "new identity", Err: err}
	}
	caTemplate := template("roundsman "+node, "")
	caTemplate.IsCA = true
	caTemplate.MaxPathLenZero = true
	caTemplate.KeyUsage = x509.KeyUsageCertSign
	caTemplate.ExtKeyUsage = nil
	ca, err := sign(caTemplate, caTemplate, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, nil, &Error{Op: "new identity", Err: err}
	}
	agent, err := newLeaf(template("agent "+node, agentName), ca, caKey)
	if err != nil {
		return nil, nil, &Error{Op: "new identity", Err: err}
	}
	manager, err := newLeaf(template("manager of "+node, managerName), ca, caKey)
	if err != nil {
		return nil, nil, &Error{Op: "new identity", Err: err}
	}
	key := make([]byte, secretLen)
	rand.Read(key)
	m := &credentials{role: roleManager, cert: manager, ca: ca, peer: fingerprintOf(agent.Leaf), peerName: agentName, secret: key}
	a := &credentials{role: roleAgent, cert: agent, ca: ca, peer: fingerprintOf(manager.Leaf), peerName: managerName, secret: key}
	return &ManagerCredentials{m}, &AgentCredentials{a}, nil
}

// OwnKey is a key pair that never leaves the side that made it, with a
// certificate signed by itself. It is for a bootstrap that others can read but
// not change: only fingerprints are exchanged. Without a shared secret, message
// authentication is keyed by TLS exporter material alone.
type OwnKey struct{ cert *tls.Certificate }

// NewOwnKey makes a key pair.
func NewOwnKey() (*OwnKey, error) {
	t := template("roundsman", agentName)
	// One certificate serves either role; the pin tells the sides apart.
	t.DNSNames = append(t.DNSNames, managerName)
	cert, err := newLeaf(t, nil, nil)
	if err != nil {
		return nil, &Error{Op: "new key", Err: err}
	}
	return &OwnKey{&cert}, nil
}

// Fingerprint is what the other side must be told.
func (k *OwnKey) Fingerprint() Fingerprint { return fingerprintOf(k.cert.Leaf) }

// Manager gives the credentials of a manager that trusts only this agent.
func (k *OwnKey) Manager(agent Fingerprint) (*ManagerCredentials, error) {
	c, err := k.credentials(roleManager, agentName, agent)
	if err != nil {
		return nil, err
	}
	return &ManagerCredentials{c}, nil
}

// AwaitAgent gives the credentials of a manager whose agent makes its key only when it
// starts: for what must be ready for that agent before. They trust nobody until
// [ManagerCredentials.Pin] has told them whom.
func (k *OwnKey) AwaitAgent() *ManagerCredentials {
	return &ManagerCredentials{&credentials{role: roleManager, cert: *k.cert, late: new(atomic.Pointer[Fingerprint]), peerName: agentName}}
}

// Pin tells credentials of [OwnKey.AwaitAgent] the agent's key, once: another than the one
// that they trust already is ErrTrust.
func (m *ManagerCredentials) Pin(agent Fingerprint) error {
	fail := func(why string) error { return &Error{Op: "pin peer", Kind: ErrTrust, Err: errors.New(why)} }
	if agent == (Fingerprint{}) || agent == m.Fingerprint() {
		return fail("the manager needs the fingerprint of the agent's key")
	}
	if m.c.late != nil && m.c.late.CompareAndSwap(nil, &agent) || m.c.pinned() == agent {
		return nil
	}
	return fail("another agent's key is trusted already")
}

// Agent gives the credentials of an agent that trusts only this manager.
func (k *OwnKey) Agent(manager Fingerprint) (*AgentCredentials, error) {
	c, err := k.credentials(roleAgent, managerName, manager)
	if err != nil {
		return nil, err
	}
	return &AgentCredentials{c}, nil
}

func (k *OwnKey) credentials(role, peerName string, peer Fingerprint) (*credentials, error) {
	if peer == (Fingerprint{}) || peer == k.Fingerprint() {
		return nil, &Error{Op: "pin peer", Kind: ErrTrust, Err: fmt.Errorf("the %s needs the fingerprint of the other side's key", role)}
	}
	return &credentials{role: role, cert: *k.cert, peer: peer, peerName: peerName}, nil
}

// Fingerprint is the manager's own.
func (m *ManagerCredentials) Fingerprint() Fingerprint { return fingerprintOf(m.c.cert.Leaf) }

// Peer is the agent's fingerprint; it is zero until Pin has been told one that is awaited.
func (m *ManagerCredentials) Peer() Fingerprint { return m.c.pinned() }

// Fingerprint is the agent's own.
func (a *AgentCredentials) Fingerprint() Fingerprint { return fingerprintOf(a.c.cert.Leaf) }

// Peer is the manager's fingerprint.
func (a *AgentCredentials) Peer() Fingerprint { return a.c.peer }

// Format implements [fmt.Formatter], without secrets.
func (m ManagerCredentials) Format(s fmt.State, _ rune) { io.WriteString(s, m.String()) }

// String implements [fmt.Stringer], without secrets.
func (m ManagerCredentials) String() string { return m.c.describe() }

// GoString implements [fmt.GoStringer], without secrets.
func (m ManagerCredentials) GoString() string { return m.c.describe() }

// LogValue implements [slog.LogValuer], without secrets.
func (m ManagerCredentials) LogValue() slog.Value { return slog.StringValue(m.c.describe()) }

// MarshalText implements [encoding.TextMarshaler], and so JSON, without secrets.
func (m ManagerCredentials) MarshalText() ([]byte, error) { return []byte(m.c.describe()), nil }

// Format implements [fmt.Formatter], without secrets.
func (a AgentCredentials) Format(s fmt.State, _ rune) { io.WriteString(s, a.String()) }

// String implements [fmt.Stringer], without secrets.
func (a AgentCredentials) String() string { return a.c.describe() }

// GoString implements [fmt.GoStringer], without secrets.
func (a AgentCredentials) GoString() string { return a.c.describe() }

// LogValue implements [slog.LogValuer], without secrets.
func (a AgentCredentials) LogValue() slog.Value { return slog.StringValue(a.c.describe()) }

// MarshalText implements [encoding.TextMarshaler], and so JSON, without secrets.
func (a AgentCredentials) MarshalText() ([]byte, error) { return []byte(a.c.describe()), nil }

// Format implements [fmt.Formatter], without secrets.
func (k OwnKey) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// pinned is the only peer that is trusted; zero is nobody yet.
func (c *credentials) pinned() Fingerprint {
	if c.late == nil {
		return c.peer
	}
	if peer := c.late.Load(); peer != nil {
		return *peer
	}
	return Fingerprint{}
}

func (c *credentials) describe() string {
	if c == nil {
		return "no credentials"
	}
	return c.role + " credentials, peer " + c.pinned().String()[:16] + ", " + redacted
}

func template(commonName, dnsName string) *x509.Certificate {
	commonName = strings.ToValidUTF8(commonName, "\uFFFD")
	if len(commonName) > 64 { // X.520 upper bound
		commonName = strings.ToValidUTF8(commonName[:64], "") // a rune that was cut
	}
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             certNotBefore,
		NotAfter:              certNotAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		// Both, because a callback from the target reverses the roles.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if dnsName != "" {
		t.DNSNames = []string{dnsName}
	}
	return t
}

// newLeaf makes a key and its certificate, signed by itself if ca is nil.
func newLeaf(t, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	t.DNSNames = append(t.DNSNames, callbackName(sha256.Sum256(spki)))
	if ca == nil {
		ca, caKey = t, key
	}
	leaf, err := sign(t, ca, &key.PublicKey, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func sign(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
