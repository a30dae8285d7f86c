package smb

import (
	"context"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/rrp/winreg/v1"
	"github.com/roundsman-go/roundsman/transport"
)

// SealedKeys lists the keys of HKEY_LOCAL_MACHINE over TCP, on the port that the endpoint
// mapper names: the one interface that Samba offers in this way.
func SealedKeys(ctx context.Context, tc transport.Conn) (names []string, err error) {
	c := tc.(*conn)
	k, err := c.begin(ctx, "list keys", "")
	if err != nil {
		return nil, err
	}
	defer k.end()
	return work(k, func() ([]string, error) {
		port, err := k.endpoint(winreg.WinregSyntaxV1_0, "a test")
		if err != nil {
			return nil, err
		}
		err = k.sealed(port, "a test", func(ctx context.Context, cc dcerpc.Conn) error {
			cli, err := winreg.NewWinregClient(ctx, cc, k.seal())
			if err != nil {
				return err
			}
			resp, err := cli.OpenLocalMachine(ctx, &winreg.OpenLocalMachineRequest{DesiredAccess: keyRead})
			if err != nil {
				return err
			}
			r := &registry{ctx, cli, resp.Key}
			return r.keys(resp.Key, 100, func(name string) error {
				names = append(names, name)
				return nil
			})
		})
		return names, err
	})
}

// AsidePrefix is what the names begin with under which a Put keeps the file that it
// replaces.
func AsidePrefix(file string) string { return asidePrefix(file) }
