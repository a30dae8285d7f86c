package sum

import "crypto/rsa"

// OwnKeys returns the private keys of the certificates that the session made.
func (s *Session) OwnKeys() []*rsa.PrivateKey {
	s.publish.mu.Lock()
	defer s.publish.mu.Unlock()
	var keys []*rsa.PrivateKey
	for _, c := range s.publish.certs {
		keys = append(keys, c.PrivateKey.(*rsa.PrivateKey))
	}
	return keys
}
