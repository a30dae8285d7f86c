package ssh

// InPieces makes every Put through the shell go in pieces of 64 KiB over two
// connections, as large ones do.
func (t *Transport) InPieces() *Transport {
	return &Transport{DialContext: t.DialContext, bulk: bulkSizes{large: 1, piece: block, second: 1, check: block}}
}

// AsStream keeps a Put on one stream, however large.
func (t *Transport) AsStream() *Transport {
	return &Transport{DialContext: t.DialContext, bulk: bulkSizes{large: 1 << 62, piece: block, second: 1 << 62, check: block}}
}
