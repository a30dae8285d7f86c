package depot

// Shortages are the errors that others may end by giving something back.
var Shortages = shortages
