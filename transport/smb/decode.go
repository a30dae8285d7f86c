package smb

import (
	"context"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/midl/uuid"
	"github.com/oiweiwei/go-msrpc/ndr"
)

// maxElements bounds what a response may have room made for at once: the elements of an
// array before the first of them is read.
const maxElements = 256 << 10

// careful is a connection of MS-RPCE whose responses may come from anybody. go-msrpc
// decodes them in goroutines of its own, where a panic ends the program, and makes room
// for as many elements as a count says.
type careful struct{ dcerpc.Conn }

func (c careful) Bind(ctx context.Context, opts ...dcerpc.Option) (dcerpc.Conn, error) {
	cc, err := c.Conn.Bind(ctx, opts...)
	if _, done := cc.(careful); err != nil || done {
		return cc, err
	}
	return careful{cc}, nil
}

func (c careful) Invoke(ctx context.Context, op dcerpc.Operation, opts ...dcerpc.CallOption) error {
	return c.Conn.Invoke(ctx, carefulOp{op}, opts...)
}

func (c careful) InvokeObject(ctx context.Context, obj *uuid.UUID, op dcerpc.Operation, opts ...dcerpc.CallOption) error {
	return c.Conn.InvokeObject(ctx, obj, carefulOp{op}, opts...)
}

type carefulOp struct{ dcerpc.Operation }

// UnmarshalNDRResponse also tells the reader of an error: of what is returned the
// library takes no notice, and the rest of the response would be zero.
func (op carefulOp) UnmarshalNDRResponse(ctx context.Context, r ndr.Reader) error {
	_, err := guard(func() (any, error) { return nil, op.Operation.UnmarshalNDRResponse(ctx, carefulReader{r}) })
	if err != nil {
		_ = r.SetErr(err)
	}
	return err
}

// carefulReader is handed on to everything that a response consists of.
type carefulReader struct{ ndr.Reader }

// Len is what counts are compared with. The reader itself believes the server's hint.
func (r carefulReader) Len() int { return min(r.Reader.Len(), maxElements) }

func (r carefulReader) Unmarshal(ctx context.Context, u ndr.Unmarshaler) error {
	return r.Reader.Unmarshal(ctx, r.wrap(u))
}

func (r carefulReader) ReadPointer(p ndr.Pointer, set func(any), us ...ndr.Unmarshaler) error {
	wrapped := make([]ndr.Unmarshaler, len(us))
	for i, u := range us {
		wrapped[i] = r.wrap(u)
	}
	return r.Reader.ReadPointer(p, set, wrapped...)
}

func (carefulReader) wrap(u ndr.Unmarshaler) ndr.Unmarshaler {
	if _, done := u.(carefulUnmarshaler); done {
		return u
	}
	return carefulUnmarshaler{u}
}

type carefulUnmarshaler struct{ ndr.Unmarshaler }

func (u carefulUnmarshaler) UnmarshalNDR(ctx context.Context, r ndr.Reader) error {
	if _, done := r.(carefulReader); !done {
		r = carefulReader{r}
	}
	return u.Unmarshaler.UnmarshalNDR(ctx, r)
}

func (u carefulUnmarshaler) AfterUnmarshalNDR(ctx context.Context) error {
	if hook, ok := u.Unmarshaler.(ndr.AfterUnmarshalNDR); ok {
		return hook.AfterUnmarshalNDR(ctx)
	}
	return nil
}
