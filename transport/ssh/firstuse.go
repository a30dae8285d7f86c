package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/internal/firstuse"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// AcceptNew returns a Trust.FirstUse that trusts what an unknown target shows and
// records it in a known_hosts file, as OpenSSH does with
// StrictHostKeyChecking=accept-new. The file should be one of Trust.KnownHosts, too,
// so that it is what the target is held to from then on; it is made with mode 0600
// if it does not exist. The function may be shared by all dials, and the file by
// several processes: beside it lies a lock file, "name.lock".
//
// Whoever answers at the first dial is trusted for good. It is no more secure than
// the network is at that time.
func AcceptNew(file string) transport.FirstUse {
	return func(ctx context.Context, seen transport.SeenIdentity) error {
		key, err := xssh.ParsePublicKey(seen.Key)
		if err != nil {
			return err
		}
		return firstuse.Record(ctx, file, func() (string, error) { return hostLine(file, seen, key) })
	}
}

// hostLine is what is to be added to a known_hosts file for a key, "" where it is there.
func hostLine(file string, seen transport.SeenIdentity, key xssh.PublicKey) (string, error) {
	name := knownName(seen.Address)
	f, err := readKnown(file)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = &knownFile{}, nil
	}
	if err != nil {
		return "", err
	}
	if where := f.revokes(key); where != "" {
		return "", fmt.Errorf("%s: this key is revoked", where)
	}
	// Another dial may have been faster.
	known, err := f.find(name)
	if err != nil {
		return "", err
	}
	for _, k := range known {
		if !k.authority && bytes.Equal(k.key.Marshal(), seen.Key) {
			return "", nil
		}
	}
	if len(known) > 0 {
		return "", fmt.Errorf("%s: another key has been recorded meanwhile", known[0].where)
	}
	return knownhosts.Line([]string{name}, key), nil
}
