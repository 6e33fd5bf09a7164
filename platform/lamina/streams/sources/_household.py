"""A household to talk about: what fills the slots that a voice assistant's templates leave open.

Keys are the slot lists of `home-assistant-intents`; `name/<domain>` is what devices of that domain
are called.
"""

from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[str]]


def _values(lists: Mapping[str, str]) -> Values:
    return {slot: text.split(", ") for slot, text in lists.items()}


ENGLISH: Values = _values(
    {
        "area": (
            "kitchen, living room, bedroom, bathroom, garage, office, hallway, dining room, "
            "nursery, garden, laundry room, guest room, playroom, conservatory"
        ),
        "floor": "basement, attic, cellar, mezzanine, penthouse, gallery",
        "zone": "school, gym, office, library, supermarket, hospital, restaurant, park",
        "name": (
            "coffee maker, kettle, space heater, humidifier, air purifier, dishwasher, "
            "Christmas tree, water pump, electric blanket, fountain, rice cooker, dehumidifier"
        ),
        "name/light": "bedside, desk, ceiling, porch, vanity, cabinet, reading, chandelier, night",
        "name/fan": "ceiling fan, desk fan, extractor fan, tower fan, ventilator",
        "name/cover": (
            "garage door, patio awning, venetian blinds, roller shutter, front gate, skylight, "
            "left curtain, blackout shade, water valve, sprinkler valve"
        ),
        "name/lock": "front door, back door, cellar door, side gate, shed, gun safe, bike locker",
        "name/binary_sensor": (
            "parking space, driveway, back entrance, sauna, meeting room, pool, carport"
        ),
        "name/climate": "thermostat, radiator, air conditioner, heat pump, AC, floor heating",
        "name/media_player": "TV, speaker, Sonos, Chromecast, soundbar, radio, stereo, Apple TV",
        "name/vacuum": "Roomba, vacuum, robot vacuum, vacuum cleaner, hoover",
        "name/lawn_mower": "Automower, Robomow, lawn robot, Husqvarna, Landroid",
        "name/todo": "groceries, chores, packing, work, hardware store, birthday",
        "name/weather": "city, coast, lake, mountains, village, airport, ski resort, cabin",
        "name/person": "kids, cat, dog, babysitter, neighbor, cleaner, gardener, roommate, brother",
        "name/scene": "movie night, party, dinner, bedtime, sunset, game day, wake-up, holiday",
        "message": (
            "dinner is ready, the bus leaves in ten minutes, it is time for bed, somebody is at "
            "the door, the movie starts now, I am on my way home"
        ),
        "timer_name": (
            "pizza, pasta, tea, laundry, egg, homework, cookie, workout, nap, bread, roast, bath"
        ),
        "timer_command": (
            "turn off the lights, open the garage door, lock the front door, start the coffee "
            "maker, pause the music, close the blinds, turn on the heater, start the vacuum"
        ),
        "shopping_list_item": (
            "milk, bread, eggs, apples, toilet paper, coffee beans, olive oil, rice, dog food, "
            "batteries"
        ),
        "todo_list_item": (
            "call the dentist, water the plants, pay the rent, book a flight, fix the bike, "
            "renew the passport, clean the oven, return the books"
        ),
        "search_query": (
            "Bohemian Rhapsody, Taylor Swift, smooth jazz, the Beatles, Abbey Road, Frozen, "
            "Miles Davis, Daft Punk, the daily news, Interstellar, Stranger Things, Vivaldi"
        ),
    }
)

ANYWHERE: Values = _values(
    {
        "area": "Studio, Loft, Patio, Garage, Lounge, Salon, Spa, Bar, Bistro, Atelier",
        "floor": "Penthouse, Mezzanine, Parterre, Souterrain",
        "zone": "Campus, Hotel, Club, Park, Stadion, Bistro",
        "name": "Robot, Boiler, Mixer, Aquarium, Toaster, Router, Server, Kamera, Modem, Printer",
        "name/light": "Hue, Neon, Nanoleaf, Yeelight, Lifx, Tradfri",
        "name/fan": "Ventilator, Dyson, Vornado, Turbo",
        "name/cover": "Somfy, Velux, Jalousie, Roleta, Portal",
        "name/lock": "Nuki, Yale, Portal, Safe",
        "name/binary_sensor": "Parking, Sauna, Garage, Bar, Portal",
        "name/climate": "Termostat, Radiator, Nest, Tado, Netatmo",
        "name/media_player": "TV, Sonos, Chromecast, Radio, Stereo, Apple TV",
        "name/vacuum": "Roomba, Roborock, Deebot, Dreame",
        "name/lawn_mower": "Automower, Robomow, Husqvarna, Landroid",
        "name/todo": "Picnic, Hobby, Yoga, Ikea, Museum",
        "name/weather": "London, Paris, Chicago, Oslo, Tokyo, Sydney, Toronto, Berlin",
        "name/person": "Anna, David, Maria, Tom, Sophie, Ahmed, Lucas, Mei",
        "name/scene": "Disco, Party, Zen, Yoga, Safari, Retro",
        "message": "Pizza, Taxi, Hallo, Stop, Bingo, OK",
        "timer_name": "pizza, pasta, yoga, sauna, sushi, espresso, curry",
        "timer_command": "stop, radio, taxi, alarm",
        "shopping_list_item": (
            "pizza, spaghetti, cola, tofu, espresso, avocado, mango, curry, sushi"
        ),
        "todo_list_item": "Yoga, Taxi, Ikea, Museum, Picnic, Sushi",
        "search_query": (
            "Bohemian Rhapsody, Taylor Swift, ABBA, Abbey Road, Miles Davis, Daft Punk, Vivaldi"
        ),
        "media_artist": "Taylor Swift, ABBA, Miles Davis, Daft Punk, Vivaldi",
    }
)
"""Names understood in most languages, for those without a household of their own."""

HOUSEHOLDS: Mapping[str, Values] = {"en": ENGLISH}

NUMBERS: Mapping[str, range] = {
    "temperature": range(16, 27),
    "color_temperature": range(2000, 6600, 100),
    "brightness": range(5, 101, 5),
    "position": range(5, 101, 5),
    "fan_speed": range(10, 101, 10),
    "volume": range(5, 101, 5),
    "volume_step_up": range(5, 45, 5),
    "volume_step_down": range(5, 45, 5),
    "timer_hours": range(2, 13),
    "timer_minutes": range(2, 60),
    "timer_seconds": range(5, 60, 5),
}
"""What people would ask for, of the ranges that the templates allow."""
