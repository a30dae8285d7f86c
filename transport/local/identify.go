package local

import (
	"context"
	"os"
	"runtime"

	"github.com/roundsman-go/roundsman/transport"
)

// Identify implements transport.Conn. It says of this host what the driver for
// SSH would say of it to the same user.
func (c *conn) Identify(ctx context.Context) (transport.Identity, error) {
	k, err := c.begin(ctx, "identify", "")
	if err != nil {
		return transport.Identity{}, err
	}
	defer k.end()
	return do(k, func() (transport.Identity, error) {
		id := transport.Identity{OS: runtime.GOOS, Arch: runtime.GOARCH}
		// That a part cannot be read leaves it empty.
		id.Name, _ = os.Hostname()
		system(&id)
		return id, nil
	})
}
