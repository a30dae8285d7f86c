package depot

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/roundsman-go/roundsman/transport"
)

// ServeTLS is Serve for HTTPS. The config has the certificate, from
// NewCertificate or elsewhere; it is copied. Where it does not say otherwise TLS
// 1.2 is the least that a client must speak. A client that does not finish the
// handshake in ten seconds is cut off.
//
// No HTTP/2 is offered, whatever the config says: a device that fetches wants one
// file and speaks HTTP/1 as a rule, and one stream of HTTP/2 costs more for each
// byte and is held up by its own window.
func (d *Depot) ServeTLS(ln net.Listener, config *tls.Config) error {
	if config == nil || len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
		_ = ln.Close()
		return &Error{Op: "serve", Err: fmt.Errorf("%w: no certificate for HTTPS", transport.ErrInvalid)}
	}
	return d.Attach(ln, config)()
}

// serverConfig returns the config as the depot uses it.
func serverConfig(config *tls.Config) *tls.Config {
	config = config.Clone()
	// Some clients for HTTP/1.0, such as curl, insist on that name (RFC 7301).
	config.NextProtos = []string{"http/1.1", "http/1.0"}
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	if choose := config.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := choose(hello)
			if c != nil {
				c = serverConfig(c)
			}
			return c, err
		}
	}
	return config
}
