from ..columns import *
from ..columns import _NS
