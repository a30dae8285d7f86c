package transporttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

func deviceCases() []Case {
	return []Case{
		{Name: "children/all", Needs: transport.CapChildren, run: childrenAll},
		{Name: "children/break", Needs: transport.CapChildren, run: childrenBreak},
		{Name: "children/cancel", Needs: transport.CapChildren, run: childrenCancel},
		{Name: "inventory/content", Needs: transport.CapInventory, run: inventoryContent},
		{Name: "space/room", Needs: transport.CapSpace | transport.CapFiles, run: spaceRoom},
		{Name: "clock/sane", Needs: transport.CapClock, run: clockSane},
	}
}

func childrenAll(ctx context.Context, e *env) error {
	if len(e.Children) == 0 {
		return e.missing("Children")
	}
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		var got []string
		err := e.within("children", func() error {
			for child, err := range transport.Children(ctx, conn) {
				if err != nil {
					return err
				}
				if child.Object == "" || child.Name == "" || child.Type == "" {
					f.addf("child %+v lacks an object, a name or a type", child)
				}
				got = append(got, child.Object)
				// Callers use the connection inside the loop.
				if _, err := conn.Identify(ctx); err != nil {
					return fmt.Errorf("identify inside the loop: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(e.Children))
		if !slices.Equal(got, want) {
			f.addf("children are %q, want %q", got, want)
		}
		return f.err()
	})
}

func childrenBreak(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		for range 3 {
			err := e.within("breaking out of children", func() error {
				for _, err := range transport.Children(ctx, conn) {
					return err
				}
				return nil
			})
			if err != nil {
				return err
			}
			if _, err := conn.Identify(ctx); err != nil {
				return fmt.Errorf("identify after breaking out: %w", err)
			}
		}
		return nil
	})
}

func childrenCancel(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		yielded := 0
		var last error
		err := e.within("children", func() error {
			for _, err := range transport.Children(ctx, conn) {
				if last != nil {
					return fmt.Errorf("children went on after the error %q", last)
				}
				cancel()
				yielded++
				last = err
			}
			return nil
		})
		if err != nil {
			return err
		}
		// All may have been read before the context ended.
		if last != nil {
			return e.wantErr("children whose context ended", last, context.Canceled)
		}
		if yielded != len(e.Children) {
			return fmt.Errorf("children ended silently after %d of %d when the context ended", yielded, len(e.Children))
		}
		return nil
	})
}

func inventoryContent(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		inv, err := transport.ReadInventory(ctx, conn)
		if err != nil {
			return err
		}
		if inv == nil {
			return errors.New("inventory is nil without an error")
		}
		if d := time.Since(inv.Taken); d < -time.Minute || d > time.Hour {
			f.addf("inventory was taken at %v, which is %v ago", inv.Taken, d)
		}
		id, err := conn.Identify(ctx)
		if err != nil || inv.Identity != id {
			f.addf("inventory is of %+v, the connection to %+v, %v", inv.Identity, id, err)
		}
		seen := map[string]bool{}
		for _, d := range inv.Devices {
			if d.ID == "" || d.Class == "" {
				f.addf("device %+v lacks an ID or a class", d)
			}
			if seen[d.ID] {
				f.addf("two devices have the ID %q", d.ID)
			}
			seen[d.ID] = true
		}
		data, err := json.Marshal(inv)
		f.add(err)
		var back transport.Inventory
		f.add(json.Unmarshal(data, &back))
		if !reflect.DeepEqual(back.Devices, inv.Devices) || !reflect.DeepEqual(back.Software, inv.Software) {
			f.addf("inventory is not the same after JSON: %s", data)
		}
		again, err := transport.ReadInventory(ctx, conn)
		if err != nil {
			return errors.Join(f.err(), err)
		}
		if !reflect.DeepEqual(again.Devices, inv.Devices) {
			f.addf("a second inventory has other devices, though nothing changed")
		}
		return f.err()
	})
}

// spaceRoom asks for the room where the suite may write, which is there, and elsewhere.
func spaceRoom(ctx context.Context, e *env) error {
	return e.withDir(ctx, func(conn transport.Conn, dir string) error {
		var f failures
		free, err := transport.Space(ctx, conn, dir)
		if err != nil || free <= 0 {
			f.addf("%d bytes are free in %q, error %v; the suite writes there", free, dir, err)
		}
		_, err = transport.Space(ctx, conn, path.Join(dir, "missing"))
		f.add(e.wantErr("space in a missing directory", err, fs.ErrNotExist))
		return f.err()
	})
}

func clockSane(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		c, err := transport.ReadClock(ctx, conn)
		if err != nil || c.Within < 0 || c.Within > e.Patience {
			f.addf("the clock is ahead by %v, known to within %v, error %v", c.Skew, c.Within, err)
		}
		again, err := transport.ReadClock(ctx, conn)
		if diff := (again.Skew - c.Skew).Abs(); err != nil || diff > c.Within+again.Within+time.Second {
			f.addf("the clock is ahead by %v, and a moment later by %v, error %v", c.Skew, again.Skew, err)
		}
		return f.err()
	})
}
