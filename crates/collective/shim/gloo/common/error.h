// Stands in for a Gloo header that the torch wheel leaves out. c10d's header only needs the names.
#pragma once
