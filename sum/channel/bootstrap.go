package channel

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

const (
	roleManager = "manager"
	roleAgent   = "agent"

	maxBootstrap = 64 << 10 // bytes
)

// bootstrap is credentials as JSON. It is the only form that shows the secrets.
type bootstrap struct {
	Version int    `json:"v"`
	Role    string `json:"role"`
	Cert    string `json:"cert"`         // PEM
	Key     string `json:"key"`          // PEM, PKCS #8
	CA      string `json:"ca,omitempty"` // PEM; absent for an own key
	Peer    string `json:"peer"`         // fingerprint
	Secret  string `json:"secret,omitempty"`
}

// MarshalBootstrap gives the credentials with their secrets, as JSON, to be
// handed to the agent. Never pass it in arguments or in the environment: other
// users of the target can read both.
func (a *AgentCredentials) MarshalBootstrap() ([]byte, error) { return a.c.marshal() }

// MarshalBootstrap gives the credentials with their secrets, as JSON, for a
// caller who keeps them in a vault so that another process can go on.
func (m *ManagerCredentials) MarshalBootstrap() ([]byte, error) { return m.c.marshal() }

// ParseAgentBootstrap reads what [AgentCredentials.MarshalBootstrap] wrote.
func ParseAgentBootstrap(data []byte) (*AgentCredentials, error) {
	c, err := unmarshal(data, roleAgent, managerName)
	if err != nil {
		return nil, err
	}
	return &AgentCredentials{c}, nil
}

// ParseManagerBootstrap reads what [ManagerCredentials.MarshalBootstrap] wrote.
func ParseManagerBootstrap(data []byte) (*ManagerCredentials, error) {
	c, err := unmarshal(data, roleManager, agentName)
	if err != nil {
		return nil, err
	}
	return &ManagerCredentials{c}, nil
}

// MarshalPEM gives the manager's certificate and private key, and the
// certificates to trust, for a client made from the WSDL by other tools. The
// shared secret is not part of it; see [Server.AllowForeign] for what such a
// client may do. trusted is empty for an own key.
func (m *ManagerCredentials) MarshalPEM() (certAndKey, trusted []byte, err error) {
	key, err := pemKey(m.c.cert)
	if err != nil {
		return nil, nil, &Error{Op: "marshal credentials", Err: err}
	}
	certAndKey = append(pemCert(m.c.cert.Leaf), key...)
	if m.c.ca != nil {
		trusted = pemCert(m.c.ca)
	}
	return certAndKey, trusted, nil
}

func (c *credentials) marshal() ([]byte, error) {
	if c.pinned() == (Fingerprint{}) {
		return nil, &Error{Op: "marshal credentials", Kind: ErrTrust, Err: errors.New("the other side's key is not known yet")}
	}
	key, err := pemKey(c.cert)
	if err != nil {
		return nil, &Error{Op: "marshal credentials", Err: err}
	}
	b := bootstrap{
		Version: 1,
		Role:    c.role,
		Cert:    string(pemCert(c.cert.Leaf)),
		Key:     string(key),
		Peer:    c.pinned().String(),
		Secret:  base64.StdEncoding.EncodeToString(c.secret),
	}
	if c.ca != nil {
		b.CA = string(pemCert(c.ca))
	}
	return json.Marshal(b)
}

// unmarshal checks everything that could make a connection fail later, or
// succeed with less protection. Its errors never quote the input.
func unmarshal(data []byte, role, peerName string) (*credentials, error) {
	bad := func(what string) error {
		return &Error{Op: "parse credentials", Kind: ErrMalformed, Err: errors.New(what)}
	}
	if len(data) > maxBootstrap {
		return nil, &Error{Op: "parse credentials", Kind: ErrTooLarge}
	}
	var b bootstrap
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if dec.Decode(&b) != nil {
		return nil, bad("not the JSON of credentials")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, bad("data after the credentials")
	}
	if b.Version != 1 {
		return nil, bad(fmt.Sprintf("version %d is not known", b.Version))
	}
	if b.Role != role {
		return nil, bad("these are not the credentials of the " + role)
	}
	cert, err := tls.X509KeyPair([]byte(b.Cert), []byte(b.Key))
	if err != nil || len(cert.Certificate) != 1 {
		return nil, bad("certificate and key do not fit")
	}
	c := &credentials{role: role, cert: cert, peerName: peerName}
	if c.cert.Leaf == nil {
		if c.cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, bad("certificate")
		}
	}
	if c.peer, err = ParseFingerprint(b.Peer); err != nil || c.peer == (Fingerprint{}) || c.peer == fingerprintOf(c.cert.Leaf) {
		return nil, bad("fingerprint of the peer")
	}
	if b.CA != "" {
		block, rest := pem.Decode([]byte(b.CA))
		if block == nil || len(rest) != 0 {
			return nil, bad("certificate authority")
		}
		if c.ca, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, bad("certificate authority")
		}
	}
	if b.Secret != "" {
		c.secret, err = base64.StdEncoding.DecodeString(b.Secret)
		if err != nil || len(c.secret) != secretLen {
			return nil, bad("secret")
		}
	}
	return c, nil
}

func pemCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func pemKey(cert tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
