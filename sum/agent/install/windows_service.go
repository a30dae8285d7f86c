package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// What Windows says of services that come and go (MS-ERREF, 2.2). A service that is
// deleted is only marked as long as its process runs, or somebody has it open.
var (
	codeRunning = transport.Code{Space: "win32", Value: "1056"} // ERROR_SERVICE_ALREADY_RUNNING
	codeMarked  = transport.Code{Space: "win32", Value: "1072"} // ERROR_SERVICE_MARKED_FOR_DELETE
	codeExists  = transport.Code{Space: "win32", Value: "1073"} // ERROR_SERVICE_EXISTS
	codeIdle    = transport.Code{Space: "win32", Value: "1062"} // ERROR_SERVICE_NOT_ACTIVE
)

// markedTime is how long a service that is marked for deletion is waited for.
const markedTime = 15 * time.Second

// createService creates a service. One of that name is a leftover: the ID in it is ours
// alone. It is replaced, since where its program is cannot be seen.
func createService(ctx context.Context, conn transport.Conn, cfg transport.ServiceConfig) error {
	end := time.Now().Add(markedTime)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := transport.CreateService(ctx, conn, cfg)
		code := transport.CodeOf(err)
		switch {
		case err == nil:
			return nil
		case code == codeMarked:
		case code == codeExists || code.IsZero() && errors.Is(err, fs.ErrExist):
			if err := removeService(ctx, conn, cfg.Name); err != nil {
				return fmt.Errorf("an earlier run left the service %s: %w", cfg.Name, err)
			}
		default:
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("an earlier run left the service %s, which does not go: %w", cfg.Name, err)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// removeService stops and deletes a service. That there is none is no error, nor that it
// goes only when somebody else closes it. One that does not stop is deleted all the same.
func removeService(ctx context.Context, conn transport.Conn, name string) error {
	err := transport.StopService(ctx, conn, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil, transport.CodeOf(err) == codeIdle, transport.CodeOf(err) == codeMarked:
	case errors.Is(err, transport.ErrTimeout) && !lineLost(ctx, err):
		// Its process hangs. What ends that is the business of the caller.
	default:
		return err
	}
	err = transport.DeleteService(ctx, conn, name)
	if errors.Is(err, fs.ErrNotExist) || transport.CodeOf(err) == codeMarked {
		err = nil
	}
	return err
}
